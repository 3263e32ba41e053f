"""What following results on a GitHub server leaves, and results as files hold them."""

import json

from perfkit.history.incidents import result_of


def unsent(follow):
    return sorted(follow.outbox.rglob("*.json"))


def plain_result(comparison):
    return result_of(json.loads(json.dumps(comparison.to_dict())), "result.json")
