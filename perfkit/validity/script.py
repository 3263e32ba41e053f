"""Did the load script do its part: did its tasks run to their end, its requests have times, its run last as planned?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from perfkit.model import Check, Severity
from perfkit.script_errors import ScriptErrors, SkippedRequests, TaskException
from perfkit.validity.facts import GeneratorFacts, graded

MOST_EXCEPTIONS = 0.5  # share of the tasks, or of the users, that may end by an exception
TASK, ON_START, ON_STOP = "task", "on_start", "on_stop"
MOST_NAMED = 3  # services that a sentence names


def check_script(facts: GeneratorFacts) -> Iterator[Check]:
    """Checks of the user's own code; nothing is said of what is not known."""
    yield from _early_end(facts)
    if facts.script is not None:
        yield _exceptions(facts.script)
    skipped = (*(facts.script.skipped if facts.script is not None else ()), *facts.skipped)
    if skipped or facts.script is not None:
        yield _skipped(skipped)
    if facts.exit_code is not None:
        yield _exit_code(facts.exit_code)


def failed_logins(script: ScriptErrors | None) -> TaskException | None:
    """The most frequent exception in ``on_start``: the users that raised it made no load."""
    raised = script.exceptions if script is not None else ()
    return next((one for one in raised if one.raised_in == ON_START), None)


def _early_end(facts: GeneratorFacts) -> Iterator[Check]:
    if facts.early_end is None:
        return
    limit = f"{facts.planned_s:g} s" if facts.planned_s is not None else "as planned"
    advice = (
        "It measured another load than it should. Look in the locustfile for runner.quit(), runner.stop(), StopUser, "
        "StopTest or sys.exit; or ask for the duration that it takes, or let a LoadTestShape decide the end."
    )
    bad = Severity.INVALID if facts.early_end else None
    yield graded("duration", facts.early_end or limit, limit, bad, advice)


def _exceptions(script: ScriptErrors) -> Check:
    """Exceptions of tasks whose request had failed come of the target, and its error rate says so."""
    if not script.exceptions:
        return graded("exceptions", 0, 0, None, "")
    count = sum(one.count for one in script.exceptions)
    logins = sum(one.count for one in script.exceptions if one.raised_in == ON_START)
    in_tasks = [one for one in script.exceptions if one.raised_in in (TASK, ON_START)]
    begun = script.tasks + logins
    ended = sum(one.count for one in in_tasks)
    by_script = ended - sum(one.after_failure for one in in_tasks)
    most = by_script > MOST_EXCEPTIONS * begun or (bool(logins) and logins > MOST_EXCEPTIONS * script.users > 0)
    sentences = [_sentence(one, script) for one in script.exceptions[:MOST_NAMED]]
    if (more := len(script.exceptions) - MOST_NAMED) > 0:
        sentences.append(f"{more} more kinds are in Locust's log.")
    value = f"{count} exceptions" if count > 1 else "1 exception"
    if ended:
        value += f", {100 * ended / max(begun, ended):.3g} % of the tasks"
    limit = f"0; invalid above {MOST_EXCEPTIONS:.0%} of the tasks"
    return graded("exceptions", value, limit, Severity.INVALID if most else Severity.WARN, " ".join(sentences))


def _sentence(one: TaskException, script: ScriptErrors) -> str:
    text = one.describe().rstrip(".")
    times = "once" if one.count == 1 else f"{one.count} times"
    if one.raised_in == ON_START:
        return (
            f"on_start failed {times} for {script.users} users ({text}), and such a user makes no load: correct "
            "on_start (login, test data); more users do not help."
        )
    if one.raised_in == ON_STOP:
        return f"on_stop failed {times} ({text}): what it should have cleaned up is left."
    if one.raised_in != TASK:
        return f"A {one.raised_in} of the locustfile failed {times} ({text}): what it should have done is missing."
    share = 100 * one.count / max(script.tasks, one.count)
    after = f", {one.after_failure} of them after a failed request" if one.after_failure else ""
    return (
        f"{one.count} of {script.tasks} tasks ({share:.3g} %) ended with {text}{after}: what they had still to ask is "
        "missing from the load. Correct the task, or check answers within catch_response, so that they count as failed."
    )


def _skipped(skipped: Sequence[SkippedRequests]) -> Check:
    if not skipped:
        return graded("skipped_requests", 0, 0, None, "")
    count = sum(one.count for one in skipped)
    services: Counter[str] = Counter()
    for one in skipped:
        services[one.service] += one.count
    faults = ", ".join(dict.fromkeys(one.fault for one in skipped))
    named = ", ".join(f"{service} ({number})" for service, number in services.most_common(MOST_NAMED))
    more = f" and {len(services) - MOST_NAMED} more services" if len(services) > MOST_NAMED else ""
    advice = (
        f"{count} requests of {named}{more} have no usable response time ({faults}) and were left out: correct the "
        "client that reports them; a response time is a number of milliseconds from 0 to 24 hours."
    )
    return graded("skipped_requests", count, 0, Severity.WARN, advice)


def _exit_code(code: int) -> Check:
    advice = (
        f"Locust ended with exit code {code}: the locustfile set it (environment.process_exit_code), or a listener "
        "failed; source/locust.log in the run's folder says which."
    )
    return graded("exit_code", code, 0, Severity.WARN if code else None, advice)
