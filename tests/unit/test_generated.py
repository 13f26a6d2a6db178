"""Generated texts are those that their sources give."""

import pytest

from tests.generated import REPOSITORY, replaced, texts


@pytest.mark.parametrize(("path", "text"), [pytest.param(*entry, id=entry[0].name) for entry in texts()])
def test_a_generated_text_is_current(path: object, text: str) -> None:
    assert (REPOSITORY / str(path)).read_text() == text, "run `make generate`"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    document = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n<!-- y:begin -->\n<!-- y:end -->\n"
    assert replaced(document, "x", "new\n") == document.replace("old", "new")
    assert replaced(replaced(document, "x", "new\n"), "x", "old\n") == document
    with pytest.raises(ValueError, match="no marks"):
        replaced(document, "z", "new\n")
