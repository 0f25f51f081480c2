from __future__ import annotations

import pytest

from ecglm.errors import EcglmError
from ecglm.records.tables import number, read_table, whole_number


def table(tmp_path, data: bytes, required=("id",), key="id"):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    return read_table(path, required, key, mend="get it again")


def test_byte_order_mark_quotes_newlines_and_empty_cells(tmp_path):
    rows = table(tmp_path, b'\xef\xbb\xbfid,text\r\n1,"a, b\r\nc ""d"""\r\n2,\r\n')
    assert rows == [{"id": "1", "text": 'a, b\r\nc "d"'}, {"id": "2", "text": ""}]


def test_latin1(tmp_path):
    assert table(tmp_path, "id,text\n1,verlÄngerung\n".encode("latin-1"))[0]["text"] == "verlÄngerung"
    assert table(tmp_path, "id,text\n1,verlÄngerung\n".encode())[0]["text"] == "verlÄngerung"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"idx,text\n1,a\n", "column 'id' is missing .did you mean 'idx'"),
        (b"", "column 'id' is missing"),
        (b"id,text,id\n1,a,2\n", "column 'id' stands twice"),
        (b"id,text\n1,a\n2\n", "line 3: 1 cells, 2 columns"),
        (b"id,text\n1,a,b\n", "line 2: 3 cells, 2 columns"),
        (b"id,text\n1,a\n2,b\n 1 ,c\n", "line 4: id '1' stands twice .first on line 2"),
        (b"id,text\n1,\x00\n", "binary"),
        (b'id,text\n1,"open\n', "line 2"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, data, message):
    with pytest.raises(EcglmError, match=message) as error:
        table(tmp_path, data)
    assert "t.csv" in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(EcglmError, match=r"none.csv: no such file; get it again"):
        read_table(tmp_path / "none.csv", (), None, mend="get it again")


def test_numbers():
    assert whole_number("15709.0") == whole_number("15709") == 15709
    assert isinstance(whole_number("15709.0"), int)
    assert (number("56.0"), number("0.5")) == (56, 0.5)
    for text in ("nan", "inf", "x", ""):
        with pytest.raises(ValueError):
            number(text)
    with pytest.raises(ValueError):
        whole_number("1.5")
