"""Makes tests/fixtures/hub.parquet: rows in the shapes and the encoding that the hub's converted data sets have, by pyarrow. Texts are ours.

usage: python scripts/make_parquet_fixture.py [OUT]        needs pyarrow (made with 26.0.1)
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

schema = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int64()),
        ("right", pa.bool_()),
        ("weight", pa.float64()),
        ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
        ("choices", pa.list_(pa.struct([("label", pa.string()), ("text", pa.string())]))),
    ]
)
rows = [
    {
        "id": f"行{i}",
        "label": i - 1,
        "right": i % 2 == 0,
        "weight": i / 8,
        "answers": {"text": ["はい", "うん"][:i], "answer_start": [3, 14][:i]},
        "choices": [{"label": "A", "text": "一\n二"}, {"label": "B", "text": ""}],
    }
    for i in range(3)
] + [{"id": None, "label": None, "right": None, "weight": None, "answers": None, "choices": []}]
pq.write_table(pa.Table.from_pylist(rows, schema), sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/hub.parquet", compression="snappy", row_group_size=2)
