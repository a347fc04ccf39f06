"""The page's modules by themselves."""
import json
import re

from .conftest import UI, desktop_only, in_browser, in_page

pytestmark = in_browser


@desktop_only
def test_markdown_takes_linear_time(page):
    timed = """(m, text) => { const start = performance.now();
                             m.markdown(text); m.codeBlock(text, "py");
                             return (performance.now() - start) / 1000; }"""
    for unit in ("[", "](", "**a ", "*a ", "`", "> ", "- ", "| a |\n|-", "http://", "_a ", "~~~\n", '"\\', "1. ",
                 "\\(x", "\\[\n", "$$\n", "$a", "\\[ x \\]\n", "\\(" + "{" * 300 + "\\)"):
        seconds = in_page(page, "markdown", timed, unit * (40_000 // len(unit)))
        assert seconds < 5, f"{unit!r} takes {seconds:.1f} s"


@desktop_only
def test_markdown_while_it_streams(page):
    """Every prefix of a text renders, and no character of code is ever lost."""
    text = "Look: **bo**\n\n```py\nx = '<b>'\n```\n\n1. a\n   - b\n\n| a |\n|---|\n| c |\nend [l](https://a.b) *e*"
    shown = in_page(page, "markdown", """(m, text) => [...Array(text.length + 1).keys()].map((end) => {
        const box = document.createElement("div");
        box.append(...m.markdown(text.slice(0, end)));
        return box.innerText; })""", text)
    assert all("bo" in one for one in shown[len("Look: **bo"):])
    assert all("x = '<b>'" in one for one in shown[text.index("'\n```") + 1:])


SHOW = """(m, text) => { const box = document.createElement("div"); box.append(...m.markdown(text));
                          document.body.append(box); const html = box.innerHTML; box.remove(); return html; }"""
FORMULAS = [  # LaTeX, what the MathML must hold
    (r"\(a^2+b_{12}\)", "<msup><mi>a</mi><mn>2</mn></msup><mo>+</mo><msub><mi>b</mi><mn>12</mn></msub>"),
    (r"\[ \frac{1}{\sqrt[3]{x}} \]", "<mfrac><mn>1</mn><mroot><mi>x</mi><mn>3</mn></mroot></mfrac>"),
    (r"$$\sum_{i=1}^n \alpha_i$$", "<munderover><mo movablelimits=\"true\">∑</mo>"),
    (r"$x^10$", "<msup><mi>x</mi><mn>1</mn></msup><mn>0</mn>"),
    (r"\(f'(x) \le \left(\text{area} \right)\)", "<mtext>area</mtext>"),
    (r"\(\begin{pmatrix} a & b \\ c & d \end{pmatrix}\)", "</mtd></mtr><mtr><mtd><mi>c</mi>"),
    (r"\(\boxed{42}\)", '<mrow class="boxed"><mn>42</mn></mrow>'),
    (r"\(\frac12 \pm \vec{v}\)", "<mfrac><mn>1</mn><mn>2</mn></mfrac><mo>±</mo><mover"),
]
# What is no formula of ours stays as it was written, nothing of it lost.
RAW = [r"\(\unknown{x}\)", r"\(\frac{1}\)", r"\(" + "{" * 50 + "x" + "}" * 50 + r"\)", r"\(a", r"\[ open", r"\(}\)",
       "It costs $5 and $6, or US$7.", "$5-$6", "`$a_1$`", r"C:\dir\(x86"]


@desktop_only
def test_formulas_and_tables(page):
    def show(text):
        return in_page(page, "markdown", SHOW, text)

    for source, expected in FORMULAS:
        assert expected in show(source), source
    read = "(m, html) => new DOMParser().parseFromString(html, 'text/html').body.textContent"
    for source in RAW:
        html = show(source)
        text = in_page(page, "markdown", read, html)
        assert "<math" not in html and text in (source, source.strip("`"), source[2:-2]), html
    html = show("So\n\\[\nx = 1\n\\]\nand\n$$\ny\n$$\nend")
    assert html.count('display="block"') == 2 and '<p dir="auto">end</p>' in html
    assert "<math" not in show("So\n\\[\nx = 1"), "it may still be streaming"
    html = show("| a | b |\n|---|---|\n| x \\| y | `z` |")
    assert html.count("<td") == 2 and "x | y" in html


NOTES = [  # what is known of an answer, and the note below it
    ({"tokens": 1, "rate": 90.4, "ending": "stop"}, "1 token · 90 per second"),
    ({"tokens": 5}, "5 tokens · interrupted"), ({"tokens": 5, "ending": "stopped"}, "5 tokens · stopped"),
    ({"tokens": 5, "ending": "length", "promptTokens": 1200, "promptSeconds": 1.5},
     "5 tokens · 1,200 tokens read in 1.5 s · cut at the limit"),
    ({"tokens": 5, "ending": "stop", "promptTokens": 0, "promptSeconds": 0}, "5 tokens"), ({}, "")]


@desktop_only
def test_the_note_below_an_answer(page):
    describe = "(m, all) => all.map((stats) => m.describe(stats))"
    assert in_page(page, "actions", describe, [stats for stats, _ in NOTES]) == [note for _, note in NOTES]


@desktop_only
def test_what_is_sent_of_a_long_conversation(page):
    """Whole exchanges, newest first, without refused questions; the newest question always."""
    build = """(m, lengths, maxChars) => {
        const chat = m.newChat();
        let last = null;
        lengths.forEach((length, i) => {
          const parts = length ? [{type: "text", text: "x".repeat(length)}] : [];
          last = m.add(chat, last, i % 2 ? "assistant" : "user", parts);
        });
        const {sent, isCut} = m.history(chat, last, maxChars);
        return [sent.map((node) => m.textOf(node).length), isCut]; }"""
    for lengths, expected in [
            ([10, 20, 30], ([10, 20, 30], False)), ([60, 60, 5], ([5], True)), ([9000, 0, 5], ([5], False)),
            ([500], ([500], False)), ([40, 30, 10, 20, 5], ([10, 20, 5], True)),
            ([30, 30, 9000, 0, 5], ([30, 30, 5], False)), ([60, 60, 5, 7], ([5, 7], True))]:
        assert tuple(in_page(page, "tree", build, lengths, 100)) == expected, lengths


@desktop_only
def test_conversations_of_two_tabs_are_merged(page):
    node = {"id": "a", "parent": "", "chosen": "b", "role": "user", "parts": [], "changed": 5}
    answer = {"id": "b", "parent": "a", "chosen": "", "role": "assistant", "parts": ["half"], "changed": 5}
    mine = {"id": "x", "updated": 10, "chosen": "a", "title": "t", "nodes": [node, answer]}
    whole, other = {**answer, "parts": ["whole"], "changed": 9}, {**answer, "id": "c", "parts": ["other"]}
    theirs = {**mine, "title": "named", "named": 3, "nodes": [{**node, "chosen": "c"}, whole, other]}
    merge = "(m, mine, theirs, busy) => [m.merge(mine, theirs, mine.nodes.filter((n) => busy.includes(n.id))), mine]"
    changed, chat = in_page(page, "tree", merge, mine, theirs, [])
    assert changed and [one["parts"] for one in chat["nodes"]] == [[], ["whole"], ["other"]]
    assert chat["nodes"][0]["chosen"] == "b" and chat["title"] == "named", "what is shown here stays"
    _, chat = in_page(page, "tree", merge, mine, {**theirs, "updated": 11}, [])
    assert chat["nodes"][0]["chosen"] == "c", "the newer conversation decides what is shown"
    _, chat = in_page(page, "tree", merge, mine, {**theirs, "updated": 11}, ["b"])
    assert chat["nodes"][1]["parts"] == ["half"] and chat["nodes"][0]["chosen"] == "b", "what is being written stays"
    assert in_page(page, "tree", merge, mine, mine, [])[0] is False


@desktop_only
def test_files_of_others_and_files_twice(page):
    restore = "(m, text) => m.restore(text).map((chat) => [chat, m.fingerprint(chat)])"

    def entry(number, parent, role, text, *children):
        content = {"content_type": "text", "parts": [text]}
        return {number: {"id": number, "parent": parent, "children": list(children),
                         "message": role and {"author": {"role": role}, "content": content}}}

    mapping = (entry("0", None, None, "", "1") | entry("1", "0", "system", "", "2")
               | entry("2", "1", "user", "hi", "3", "5") | entry("3", "2", "tool", "searching", "4")
               | entry("4", "3", "assistant", "Hello.")
               | entry("5", "2", "assistant", "Good day.", "6") | entry("6", "5", "assistant", "And more."))
    file = json.dumps([{"title": "Greeting", "update_time": 1.5, "mapping": mapping, "current_node": "4"}])
    [[chat, print_]] = in_page(page, "files", restore, file)
    assert chat["title"] == "Greeting" and chat["updated"] == 1500
    shown = in_page(page, "tree", "(m, chat) => m.path(chat).map(m.textOf)", chat)
    assert shown == ["hi", "Hello."] and len(chat["nodes"]) == 3, "both branches; two messages of a speaker are one"
    assert any(node["parts"][0]["text"] == "Good day." and len(node["parts"]) == 3 for node in chat["nodes"])
    [[again, same]] = in_page(page, "files", restore, file)
    assert same == print_ and again["id"] != chat["id"]
    details = {"stats": {"model": "m", "tokens": 3, "rate": "fast", "system": "Be brief.", "evil": 1}, "rating": 1,
               "tokens": [{"text": "a", "p": 0.5, "top": [["b", 0.1]]}, {"tool": {"expression": "1", "result": "1"}}]}
    nodes = [{"id": "a", "role": "user", "parts": [{"type": "text", "text": "q"}], "chosen": "b"},
             {"id": "b", "parent": "a", "role": "assistant", "parts": [{"type": "text", "text": "r"}], **details}]
    file = json.dumps({"chats": [{"nodes": nodes, "chosen": "a", "system": "S"}]})
    [[chat, _]] = in_page(page, "files", restore, file)
    answer = chat["nodes"][1]
    assert chat["system"] == "S" and answer["rating"] == 1 and answer["tokens"][0] == details["tokens"][0]
    assert {key: value for key, value in answer["stats"].items() if value} == {
        "model": "m", "tokens": 3, "system": "Be brief."}
    line = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"},
                         {"role": "assistant", "content": "yes"}]}
    [[chat, _]] = in_page(page, "files", restore, json.dumps(line))
    assert chat["system"] == "Be kind." and len(chat["nodes"]) == 2
    cycle = {"mapping": {"1": {"parent": "2", "children": ["2"]}, "2": {"parent": "1", "children": ["1"]}}}
    for bad in ({"mapping": 5}, {"mapping": {"1": None}}, cycle, {"mapping": {"1": {"message": {"author": {
            "role": "user"}, "content": {"parts": 5}}}}, "current_node": []}):
        error = in_page(page, "files", "(m, text) => { try { m.restore(text); } catch (e) { return e.message; } }",
                        json.dumps(bad))
        assert "no conversation" in error, bad


@desktop_only
def test_imports_are_not_trusted(page):
    restore = "(m, text) => { try { return m.restore(text); } catch (error) { return error.message; } }"
    for bad in ("", "{", "[]", "null", '{"chats": 5}', '{"chats": [null, 5, {"nodes": "x"}]}',
                '{"messages": [{"role": "system", "content": "x"}]}'):
        assert "no conversation" in in_page(page, "files", restore, bad)
    nodes = [{"id": "a", "parent": "b", "role": "user", "parts": [{"type": "text", "text": "one"}], "chosen": "a"},
             {"id": "b", "parent": "a", "role": "assistant", "parts": [{"type": "text", "text": 5}, {"type": "evil"}],
              "error": "x", "tokens": "y", "chosen": "a"}, {"id": "c", "parent": "a", "role": "root", "parts": []}]
    file = {"chats": [{"id": "__proto__", "title": 7, "nodes": nodes, "chosen": "b"}]}
    [chat] = in_page(page, "files", restore, json.dumps(file))
    assert chat["title"] == "one" and chat["id"] != "__proto__"
    assert [(one["role"], one["parts"]) for one in chat["nodes"]] == [
        ("user", [{"type": "text", "text": "one"}]), ("assistant", [{"type": "text", "text": ""}])]
    assert in_page(page, "tree", "(m, chat) => m.path(chat).length", chat) == 2, "no cycle"
    answer = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}, {"type": "text", "text": "2."}]
    line = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]}
    chats = in_page(page, "files", restore, f"{json.dumps(line)}\n" * 2)
    assert len(chats) == 2 and chats[0]["nodes"][1]["parts"][0] == {"type": "tool", "expression": "1+1", "result": "2"}
    again = in_page(page, "files", "(m, chats) => m.trainingLines(chats)", chats)
    assert [json.loads(one) for one in again.splitlines()] == [line, line]


def test_the_source_has_no_way_to_make_html_of_text():
    for path in sorted(UI.glob("*.js")):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") < 300, f"{path.name} has {source.count(chr(10))} lines"
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "srcdoc"):
            assert forbidden not in source, f"{path.name}: {forbidden}"
        outside = set(re.findall(r"https?://[\w.]+", source)) - {"http://www.w3.org"}  # the name of SVG
        assert not outside, f"{path.name} names {outside}"
