"""A verification as JUnit XML, which every CI shows; the properties are those of the project's parity tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from .golden import Row


def junit(rows: Sequence[Row], backend: str) -> str:
    """One test case per row, with properties backend, case, output, error, bound and said."""
    count = {verdict: str(sum(r.verdict == verdict for r in rows)) for verdict in ("FAIL", "skip")}
    totals = {"tests": str(len(rows)), "failures": count["FAIL"], "errors": "0", "skipped": count["skip"]}
    suite = ET.Element("testsuite", name="liveact verify", **totals)
    for row in rows:
        case = ET.SubElement(suite, "testcase", classname=f"verify.{row.case}", name=row.variant)
        values = {"backend": backend, "case": row.case, "output": row.variant, "error": row.error,
                  "bound": row.tolerance, "said": row.note}  # fmt: skip
        properties = ET.SubElement(case, "properties")
        for name, value in values.items():
            ET.SubElement(properties, "property", name=name, value="" if value is None else str(value))
        said = f"error {row.error}, bound {row.tolerance} {row.note}".strip()
        if row.verdict == "FAIL":
            ET.SubElement(case, "failure", message=said)
        elif row.verdict == "skip":
            ET.SubElement(case, "skipped", message=row.note)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
