from __future__ import annotations

import pytest

from support.pages import anchors, blocks, inline_code
from support.terminal import is_as_shown

PAGE = """# One: the `first`

Save this as `hello.py`:

```python
print("hello")
```

Nobody says a name, then a list:

- run it:
  ```console
  python hello.py
  ```

<!-- make docs: keypost --help -->
```text
made
```
<!-- made -->

```text
hello
```

    PAE(p1) = 1
    python

A formula, then a command:

    DEBUG=1 .venv/bin/python hello.py
"""


def test_blocks_are_read_in_order_without_what_is_made() -> None:
    assert [(block.language, block.text, block.saved_as) for block in blocks(PAGE)] == [
        ("python", 'print("hello")\n', "hello.py"),
        ("console", "python hello.py\n", ""),
        ("text", "hello\n", ""),
        ("console", "DEBUG=1 .venv/bin/python hello.py\n", ""),
    ]
    assert [PAGE.splitlines()[block.line - 1].strip() for block in blocks(PAGE)] == [
        "```python",
        "```console",
        "```text",
        "DEBUG=1 .venv/bin/python hello.py",
    ]


def test_anchors_are_those_of_github() -> None:
    assert anchors(PAGE) == ["one-the-first"]
    assert "first" in inline_code(PAGE)


@pytest.mark.parametrize(
    ("shown", "real", "alike"),
    [
        ("You are eve/….\n", "You are eve/abc234.\n", True),
        ("a  \nb", "\na\nb\n\n", True),
        ("a", "a b", False),
        ("You are …", "You are two words", False),
        ("a.b", "axb", False),
        ("line", "line\nmore", False),
    ],
)
def test_an_output_is_as_shown(shown: str, real: str, alike: bool) -> None:  # noqa: FBT001
    assert is_as_shown(shown, real) is alike
