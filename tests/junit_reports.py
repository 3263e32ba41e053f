"""JUnit documents, held to the published schema."""

from functools import cache
from xml.etree import ElementTree

import xmlschema
from samples import REPOSITORY


@cache
def schema():
    return xmlschema.XMLSchema(str(REPOSITORY / "tests" / "schemas" / "junit-10.xsd"))


def junit(text):
    """The suites of a document that fits the schema and whose counts are true."""
    schema().validate(text)
    suites = ElementTree.fromstring(text.encode()).findall("testsuite")
    for suite in suites:
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(suite.get(attribute)) == len(list(suite.iter(tag)))
        assert int(suite.get("skipped")) == len(list(suite.iter("skipped")))
    return suites
