"""The small closed world of the kindergarten: who lives there, and what is true.

Lists of words (names, animals, colours, …) are constants that every generator shares. `World(seed)` draws from them what
only this world knows: Tom's pet, its name, the colour of his scarf, where he lives, who his friend is. What is true of
animals and opposites does not depend on the seed. All of it is kept as triples `Fact(entity, relation, value)` with
single-word values; `RELATIONS` says how each relation is stated and asked in plain English.

>>> world = World(seed=0)
>>> world.value("cow", "sound"), len(world.facts) > 800
('moo', True)

Not here: which questions are held out for exams (facts.py), and longer text (stories.py).
"""

import random
from typing import NamedTuple

GIRLS = ("Ada Amy Anna Bella Clara Cora Ella Emma Eva Flora Grace Hanna Ida Iris Jane Julia Kate Lily Lucy Mary Mia Nina "
         "Nora Paula Rosa Ruth Sara Sofia Tina Vera Wendy Zoe").split()
BOYS = ("Adam Alan Ben Bill Carl Dan David Eric Felix Frank Fred George Hans Henry Ian Jack James John Leo Luke Mark Max "
        "Nick Noah Oscar Otto Paul Peter Sam Simon Tom Victor").split()
NAMES = tuple(sorted(GIRLS + BOYS))
PET_NAMES = ("Pip Dot Rex Fluff Spot Coco Biscuit Pepper Ginger Mitten Patch Socks Muffin Button Bubble Pickle Peanut Waffle "
             "Nugget Toffee Pudding Noodle Bramble Clover Daisy Fern Holly Maple Misty Nutmeg Olive Pebble Poppy Rusty Sandy "
             "Smoky Snowy Star Sunny Tango Teddy Tinker Topsy Twig Velvet Wiggle Ziggy Zippy Domino Echo Gizmo Jasper Kiki "
             "Lulu Momo Nemo Pogo Quill Rascal Scamp Bingo Comet Dusty Fizz").split()
COLOURS = "red blue green yellow orange purple pink brown black white grey gold silver cream tan teal".split()
GARMENTS = "hat coat scarf cap".split()  # 16 colours × 4 garments = 64 people: each wears something nobody else does
HOMES = "mill castle tower cottage cabin village forest valley lighthouse tent palace treehouse inn hut wagon boathouse".split()
FOODS = ("soup bread cheese rice pasta pizza salad honey porridge stew fish toast pancakes noodles beans carrots peas plums "
         "pears apples grapes berries nuts cake").split()
JOBS = ("baker farmer teacher doctor nurse painter singer dancer driver pilot sailor tailor cook gardener builder clown judge "
        "barber fisher weaver potter miner plumber guard").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SEASONS = "winter winter spring spring spring summer summer summer autumn autumn autumn winter".split()  # of each month
NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
           "eighteen nineteen twenty").split()
# Things one can hold and count: singular → plural. The first group can be somebody's favourite toy.
TOYS = {"ball": "balls", "kite": "kites", "drum": "drums", "doll": "dolls", "train": "trains", "boat": "boats",
        "puzzle": "puzzles", "robot": "robots", "top": "tops", "puppet": "puppets", "truck": "trucks", "flute": "flutes",
        "marble": "marbles", "block": "blocks", "swing": "swings", "sled": "sleds", "bell": "bells", "rocket": "rockets",
        "wand": "wands", "crown": "crowns", "mask": "masks", "rope": "ropes", "whistle": "whistles", "globe": "globes"}
THINGS = TOYS | {"book": "books", "cup": "cups", "spoon": "spoons", "pencil": "pencils", "stone": "stones", "shell": "shells",
                 "leaf": "leaves", "flower": "flowers", "key": "keys", "coin": "coins", "egg": "eggs", "apple": "apples",
                 "pear": "pears", "plum": "plums", "cookie": "cookies", "candle": "candles", "basket": "baskets",
                 "chair": "chairs", "lamp": "lamps", "sock": "socks", "stamp": "stamps", "feather": "feathers"}
SPOTS = "shelf box bag drawer chest bucket cupboard cellar attic corner".split()  # where a toy is kept: "in the …"
OUTINGS = ("in the park", "by the river", "on the beach", "at the market", "at school", "in the garden", "on the hill",
           "by the lake", "in the wood", "at the station", "in the field", "at the fair", "on the bridge", "in the street")

# From the smallest to the biggest: name, sound, home, food, legs, covering, may be a pet.
_ANIMALS = """ant tick hill crumbs 6 shell pet; bee buzz hive nectar 6 fuzz pet; cricket chirp grass leaves 6 shell pet;
spider tap web flies 8 hair pet; frog croak pond bugs 4 skin pet; mouse squeak hole cheese 4 fur pet; robin tweet nest worms 2 feathers pet;
bat screech cave moths 2 fur wild; mole snuffle tunnel grubs 4 fur pet; parrot squawk cage seeds 2 feathers pet;
crow caw tree corn 2 feathers pet; owl hoot hollow mice 2 feathers pet; duck quack lake bread 2 feathers pet;
hen cluck coop grain 2 feathers pet; rabbit thump burrow carrots 4 fur pet; cat meow basket fish 4 fur pet;
goose honk yard weeds 2 feathers pet; turkey gobble pen barley 2 feathers pet; fox yip den rabbits 4 fur wild;
dog woof kennel bones 4 fur pet; monkey chatter jungle bananas 2 fur pet; goat maa shed bark 4 hair pet;
snake hiss pit eggs 0 scales wild; wolf howl mountain meat 4 fur wild; sheep baa fold clover 4 wool pet; pig oink sty scraps 4 bristles pet;
seal bark2 rock herring 0 skin wild; donkey bray stall hay 4 hair pet; lion roar plain deer 4 fur wild; horse neigh stable oats 4 hair pet;
cow moo barn grass 4 hair pet; bear growl woods honey 4 fur wild; camel grunt desert thorns 4 hair wild;
elephant trumpet savanna leaves 4 skin wild; whale sing sea krill 0 skin wild"""
