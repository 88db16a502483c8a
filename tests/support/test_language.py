"""tools/check_language.py reports what its docstring names, and nothing else."""

from pathlib import Path

import pytest
from tools.check_language import Area, Found, find, problems, sentences, wide_lines


def read(tmp_path: Path, name: str, text: str) -> Found:
    path = tmp_path / name
    path.write_text(text)
    found = Found()
    found.read(path, name)
    return found


@pytest.mark.parametrize(
    ("name", "text", "lines", "words"),
    [
        (
            "a.rs",
            "//! Who\nlet url = \"http://nobody\"; // looks\nlet c = '\"'; // who's\n",
            3,
            "1 Who 2 looks 3 who",
        ),
        ("a.rs", "/* a\n   who */ fn nobody() {}\n/// begin_of_look, onlooker\n", 3, "2 who"),
        ("a.rs", 'let s = r#"// who "quoted" "#; // nobody\n', 1, "1 nobody"),
        (
            "a.py",
            '"""Doc.\n\nWhoever.\n"""\nx = "who"  # Look\ny: int\n"""Nobody."""\n',
            4,
            "3 Whoever 5 Look 7 Nobody",
        ),
        ("Makefile", 'x := a#who\n# somebody\n\t@echo "who" # who\n', 2, "2 somebody 3 who"),
        ("a.md", "Who.\n\n```\nnobody\n```\n\n| nobody |\n", 2, "1 Who 7 nobody"),
    ],
)
def test_words_are_counted_in_comments_alone(
    tmp_path: Path, name: str, text: str, lines: int, words: str
) -> None:
    found = read(tmp_path, name, text)
    assert " ".join(word.removeprefix(f"{name}:").replace(":", "") for word in found.words) == words
    assert found.comment_lines == lines


def test_lines_of_code_have_a_width() -> None:
    url = f"    # https://example.org/{'x' * 100}"
    text = f"{'x = 1; ' * 16}\n{'x ' * 55}\n{url}\n"
    assert [number for number, _ in wide_lines(text)] == [1]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("One.\nTwo, e.g. `this`, or Linux 6.18.\n\n- **Three.**\n  Four:\n\n1. Five\n", []),
        ("One. Two.\n", ["more than one sentence"]),
        ("- One (two). `three` goes on.\n", ["more than one sentence"]),
        ("One goes\non.\n", ["a sentence that goes on in the next line"]),
        ("# A heading\nOne.\n", []),
        (f"{'word ' * 40}.\n", ["201 characters, at most 200"]),
        (f"| One. Two. | {'x' * 201} |\n", ["a cell of 201 characters, at most 200"]),
        (f"```\nOne. Two\n{'x ' * 101}\n```\n", []),
    ],
)
def test_lines_of_documents_have_one_sentence(text: str, wrong: list[str]) -> None:
    assert [problem for _, problem in sentences(text)] == wrong


def test_what_is_above_a_limit_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("# who\n" + "x = 1; " * 16 + "\n")
    found = find(Area("here", ("*.py",), 1000, 1), tmp_path)
    assert [*problems(Area("here", (), 1000, 1), found)] == []
    assert [*problems(Area("here", (), 999, 0), found)] == [
        "a.py:1: who",
        "here: 1000.0 such words in 1,000 lines, at most 999",
        "a.py:2: 112 columns, at most 110",
        "here: 1 such lines, at most 0",
    ]
