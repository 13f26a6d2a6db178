"""On which line a key is set, told by the parser itself."""

from aitherd.config.places import lines_of

TEXT = '''# engine = "commented out"
engine = "exec"

# about the command
command = [
  "vram",
  "b",
]
vram = 3

[resources]
MemoryMax = "1G"
# between
MemoryHigh = 3
[upstreams."a.b"]
url = """
kind = "in the text"
"""
kind = "cloud"
'''


def test_a_key_is_found_where_it_is_set_and_not_where_it_is_spoken_of() -> None:
    keys = ["engine", "command[1]", "vram", "resources.MemoryHigh", "upstreams.a.b.url", "upstreams.a.b.kind"]
    assert lines_of(TEXT, keys) == dict(zip(keys, [2, 5, 9, 14, 16, 19], strict=True))


def test_what_is_missing_is_told_by_its_table_or_not_at_all() -> None:
    assert lines_of(TEXT, ["resources.Missing", "missing"]) == {"resources.Missing": 11}


def test_a_file_that_would_take_long_is_left_alone() -> None:
    text = "\n".join(f"k{number} = {number}" for number in range(30_000))
    assert lines_of(text, ["k1", "k29999"]) in ({}, {"k1": 2})


def test_what_is_no_toml_has_no_lines() -> None:
    assert lines_of("engine = [\nvram = 3", ["vram"]) == {}
