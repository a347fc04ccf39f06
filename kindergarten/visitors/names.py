"""Names of people who do not live in the village: visitors, characters, strangers, places of the real world."""

from kindergarten.world import NAMES

FIRST_NAMES = [name for name in """
    Aaron Abigail Agnes Ahmed Albert Alex Alexander Alfred Alice Amanda Amelia Amir Andrea Andrew Angela
    Anita Anton Arthur Astrid Barbara Beatrice Ben Bernard Beth Betty Bianca Bob Boris Brian Bruno
    Camila Carla Carlos Carmen Caroline Catherine Cecilia Charles Charlie Charlotte Chen Chloe Chris
    Christina Claire Claudia Colin Connor Daisy Dana Daniela Dennis Derek Diana Diego Dominic Dora Doris
    Dorothy Dylan Edith Edward Eleanor Elena Elias Elisabeth Elsa Emily Emil Enzo Erica Erik Esther
    Ethan Eugene Evelyn Fatima Fabian Fiona Florence Francis Freya Gabriel Gavin Georgia Gerald Gina
    Gloria Gordon Greta Gustav Hannah Harold Harriet Harry Hector Heidi Helen Helga Hugo Ibrahim Ines
    Ingrid Irene Isaac Isabel Ivan Ivy Jacob Jamal Jason Jasmine Jenny Jeremy Jessica Joan Johanna Jonas
    Jonathan Jorge Jose Joseph Joshua Joyce Juan Judith Karen Karl Katie Keith Kevin Kim Klaus Lara
    Larry Laura Lea Lena Leonard Lewis Liam Linda Lisa Lola Lorenzo Louis Louise Lucas Lukas Luis Mabel
    Maggie Malik Marco Margaret Maria Marie Marina Mario Martha Martin Matilda Matthew Maurice Maya
    Megan Melanie Michael Miguel Mila Miriam Mohammed Molly Monica Nadia Nancy Naomi Natalie Nathan Neil
    Nelson Nicole Nigel Norman Olga Oliver Olivia Omar Oskar Otis Pablo Pamela Patricia Patrick Pedro
    Penelope Percy Philip Phoebe Pierre Priya Quentin Rachel Ralph Ramon Raj Rebecca Renata Ricardo
    Richard Rita Robert Robin Roger Ronald Rory Rosalind Roxy Rupert Ryan Sabrina Sally Samira Samuel
    Sandra Sarah Sebastian Selma Sergio Sheila Sidney Silvia Simone Sonia Sophie Stefan Stella Stephen
    Steve Stuart Susan Sven Sylvia Tamara Tania Ted Teresa Theo Thomas Tiffany Tim Tobias Toby Tony
    Tracy Ursula Valerie Vanessa Veronica Vincent Viola Vivian Walter Wilfred William Winnie Xavier Yara
    Yasmin Yusuf Yvonne Zara Zelda Zoltan""".split()
               if name not in NAMES]
SURNAMES = """Adams Anderson Bach Bailey Baker Barnes Bell Bennett Bergman Black Blake Boyle Brooks Brown Byron
    Campbell Carter Chaplin Clark Cohen Cole Collins Cooper Cox Cruz Darwin Davies Dawson Dickens Dixon
    Edison Edwards Ellis Evans Fischer Fisher Fleming Ford Foster Fox Garcia Gibson Gomez Graham Grant
    Green Griffin Hall Hamilton Hansen Harris Harrison Hawking Hayes Hill Holmes Hoffman Howard Hughes
    Hunt Jackson James Jansen Jenkins Johnson Jones Kelly Kennedy Khan King Klein Kowalski Lawson Lee
    Lewis Lincoln Lopez Marx Mason Meyer Miller Mitchell Moore Morgan Morris Mozart Muller Murphy Murray
    Nelson Newton Nguyen Nolan Obama Olsen Owen Palmer Parker Patel Pemberton Perez Peterson Picasso
    Porter Potter Powell Price Quinn Reed Reynolds Rice Roberts Robinson Rogers Rossi Russell Ryan
    Sanchez Schmidt Scott Shakespeare Shaw Silva Singh Smith Spencer Stevens Stewart Swift Taylor
    Thistle Thompson Trump Tucker Turner Twain Vega Wagner Walker Wallace Ward Washington Watson Weber
    Wells West White Williams Wilson Winston Wong Wood Wright Young""".split()
PLACES = """Paris London Rome Berlin Madrid Vienna Athens Moscow Tokyo Beijing Delhi Cairo Nairobi Lagos Sydney
    Toronto Chicago Boston Texas Florida Alaska Mexico Brazil Peru Chile Argentina Cuba Canada America
    Africa Asia Europe India China Japan Korea Russia Turkey Egypt Kenya Ghana Nigeria Morocco Israel
    Iran Iraq Greece Italy Spain Portugal Ireland Scotland Wales England Britain Norway Sweden Finland
    Denmark Iceland Poland Hungary Austria Germany Switzerland Belgium Holland Croatia Serbia Romania
    Bulgaria Ukraine Estonia Latvia Lithuania Australia Vietnam Thailand Nepal Cambodia Indonesia
    Malaysia Singapore Pakistan Bangladesh Ethiopia Uganda Zambia Angola Senegal Malta Cyprus Venice
    Milan Naples Florence Barcelona Seville Lisbon Porto Dublin Belfast Edinburgh Glasgow Liverpool
    Manchester Leeds York Oxford Bristol Brighton Hamburg Munich Cologne Zurich Geneva Prague Warsaw
    Budapest Oslo Stockholm Helsinki Copenhagen Brussels Amsterdam Bombay Bangkok Seoul Shanghai Manila
    Jakarta Melbourne Auckland Nebraska Utah Ohio Hawaii Montreal Vancouver Lima Bogota Caracas Quito
    Havana Bolivia Ecuador Uruguay Paraguay Colombia Venezuela Panama Jamaica Somalia Sudan Libya
    Tunisia Algeria Mongolia Slovakia Slovenia Albania Luxembourg Monaco Bavaria Tuscany Siberia
    Yorkshire Cornwall Brooklyn Hollywood Manhattan Dallas Denver Seattle Miami Detroit""".split()
LANGUAGES = """French German Spanish Italian Portuguese Dutch Danish Swedish Norwegian Finnish Polish Czech Russian
    Greek Turkish Arabic Hebrew Hindi Chinese Mandarin Japanese Korean Thai Vietnamese Latin Welsh Irish
    Gaelic Hungarian Romanian Ukrainian Swahili Urdu Persian Bengali Tamil Icelandic Croatian Serbian
    Catalan Basque Maori Esperanto""".split()
FOREIGN = """bonjour merci gracias hola adios bitte danke guten_Tag ciao grazie obrigado hej tak skol sayonara
    arigato ni_hao spasibo privet shalom salam namaste merhaba amigo mon_ami je_t'aime te_quiero perro
    gato casa Hund Katze Haus chien chat maison libro agua Wasser pain pan Brot""".replace("_", "-").split()
# What a system text may say that the assistant is.
ROLES = """pirate teacher gardener sailor captain wizard robot baker farmer cook king queen prince princess
    knight clown detective doctor nurse shepherd poet painter singer dancer dragon cat dog parrot owl
    fox bear frog mouse rabbit penguin pony horse lion tiger dinosaur elf fairy witch ghost giant
    monster unicorn snowman butler librarian explorer astronaut cowboy chef fisherman miner postman
    driver pilot tailor shopkeeper scientist inventor magician judge monk hunter lighthouse-keeper
    football-coach grandmother grandfather uncle aunt assistant helper tutor storyteller coach musician
    soldier mermaid goblin troll alien vampire nun actor carpenter blacksmith bee seal puffin hedgehog
    squirrel donkey tortoise""".split()

MANNERS = """grumpy cheerful friendly polite brave lazy sleepy funny old young wise silly kind proud shy happy
    sad tiny giant clever tired hungry loud quiet strict patient gentle curious noisy bold calm cold
    cosy crazy dreamy elegant fancy famous fearless forgetful fussy helpful honest jolly lonely merry
    moody mysterious nervous nosy playful rude serious sneaky strange sweet talkative warm wild little
    magic royal""".split()
