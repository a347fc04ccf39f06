"""The page's modules by themselves."""
import json
import re

from .conftest import UI, desktop_only, in_browser

pytestmark = in_browser


def in_page(page, module, code, *args):
    """What `code`, a function of the module's exports and args, gives back."""
    return page.evaluate(f"async (args) => ({code})(await import('./{module}.js'), ...args)", list(args))


@desktop_only
def test_markdown_takes_linear_time(page):
    timed = """(m, text) => { const start = performance.now();
                             m.markdown(text); m.codeBlock(text, "py");
                             return (performance.now() - start) / 1000; }"""
    for unit in ("[", "](", "**a ", "*a ", "`", "> ", "- ", "| a |\n|-", "http://", "_a ", "~~~\n", '"\\', "1. "):
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
