"""``perfkit completion``, and what completes at a prompt: scenarios, runs, selectors, labels, services and metrics.

It lists folders and reads a few small files, imports neither the store nor anything else that is heavy, and never fails
at a prompt: what cannot be read completes nothing.  Names that a shell would take for more than a word, within quotes
too, are left out; spaces and brackets are quoted by the shell.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from heapq import nlargest
from pathlib import Path
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from perfkit.model.errors import PerfkitError
from perfkit.model.installation import shipped_files
from perfkit.model.records import SHORT_NAMES, Metric

VARIABLE = "_PERFKIT_COMPLETE"  # set by the scripts of the shells
MOST_IDS, MOST_READ = 200, 60  # newest runs that are offered, and documents that are read
MOST_SERVICES_READ = 10  # the same, for the names of services
_TYPED = re.compile(r"[\w@%+=:,./{}()\[\] -]+")  # harmless within quotes in every shell
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-(.+)-[0-9a-f]{4,}\Z")
KINDS = ("rolling", "last:5", "previous:5", "merge-base", "pinned:", "commit:", "branch:", "label:")


@click.command(short_help="Completion of commands, scenarios and runs for your shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script with which a shell completes commands, options and names: of scenarios, runs, services, metrics.

    \b
    Examples:
      eval "$(perfkit completion bash)"                                  # in ~/.bashrc
      eval "$(perfkit completion zsh)"                                   # in ~/.zshrc, after compinit
      perfkit completion fish > ~/.config/fish/completions/perfkit.fish
    """
    click.echo(_answer(click.get_current_context().find_root().command, f"{shell}_source"), nl=False)


def answer(cli: click.Command) -> str:
    """What the script of a shell asks for by the environment; empty where that cannot be had, whatever the reason."""
    with suppress(Exception, SystemExit):
        return _answer(cli, os.environ[VARIABLE])
    return ""


def _answer(cli: click.Command, instruction: str) -> str:
    shell, _, what = instruction.partition("_")
    kind = get_completion_class(shell)
    if kind is None:
        return ""
    completer = kind(cli, {}, "perfkit", VARIABLE)
    return completer.source() if what == "source" else completer.complete()


@add_completion_class
class _Bash(BashComplete):
    """Bash breaks words at ``@``, ``:`` and ``=``, which selectors and labels hold: what it has broken is put together.

    It replaces only what follows the last of them, so this is all that it is given.  It quotes nothing by itself.
    """

    source_template = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                [[ $value == *: ]] && compopt -o nospace
                [[ ${COMP_WORDS[COMP_CWORD]-} == [\\'\\"]* ]] || printf -v value %%q "$value"
                COMPREPLY+=("$value") ;;
        esac
    done < <(COMP_WORDS=$line COMP_CWORD=0 %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = click.shell_completion.split_arg_string(line)
        words = words[next((i + 1 for i, word in enumerate(words) if "=" not in word), 0) :]  # after NAME=value perfkit
        is_new = line[-1:].isspace() and not (words and words[-1][-1:].isspace())  # a space within quotes is none
        return (words, "") if not words or is_new else (words[:-1], words[-1])

    def format_completion(self, item: CompletionItem) -> str:
        _, word = self.get_completion_args()
        if word.startswith("--"):
            word = word.partition("=")[2]  # the value, which is all that is completed
        broken = max(map(word.rfind, "@:=")) + 1
        return f"{item.type},{item.value[broken:] if item.type == 'plain' else item.value}"


@add_completion_class
class _Zsh(ZshComplete):
    """The value of ``--option=value`` is completed alone, and what ends in a colon goes on: no space behind it."""

    source_template = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local type key descr
    local -a whole open described
    for type key descr in "${(@f)$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
            %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}"; do
        if [[ $PREFIX == --*=* ]]; then IPREFIX+="${PREFIX%%%%=*}="; PREFIX=${PREFIX#*=}; fi
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                if [[ $descr != _ ]]; then described+=("${key}:$descr")
                elif [[ $key == *: ]]; then open+=("$key")
                else whole+=("$key"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described
    (( $#whole )) && compadd -V unsorted -a whole
    (( $#open )) && compadd -V unsorted -S '' -a open
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then %(complete_func)s "$@"
else compdef %(complete_func)s %(prog_name)s; fi
"""


@add_completion_class
class _Fish(FishComplete):
    """The newest runs come first, texts may hold commas, and of ``--option=value`` the value is completed."""

    source_template = """\
function %(complete_func)s
    set -l option (string match -r -- '^--[^=]+=' (commandline -ct); or echo '')
    for line in (env COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -ct) \\
            %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
        set -l item (string split -m 1 , -- $line)
        set -l values $item[2]
        switch $item[1]
            case dir
                set values (__fish_complete_directories $item[2] '')
            case file
                set values (__fish_complete_path $item[2])
        end
        for value in $values
            echo -- $option$value
        end
    end
end
complete --no-files --keep-order --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


def _completer(
    words: Callable[[click.Context, str], Iterable[str]],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Offers those words that go on as was typed, each once, or files where there are none; nothing on any failure."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        with suppress(Exception):
            fits = (word for word in words(context, incomplete) if word.startswith(incomplete))
            typed = filter(_TYPED.fullmatch, fits)
            return [CompletionItem(word) for word in dict.fromkeys(typed)] or [CompletionItem(incomplete, type="file")]
        return []

    return complete


def _given(context: click.Context, name: str) -> Any:
    """An option of the command, or of the group that it is in."""
    contexts = (context, context.parent) if context.parent is not None else (context,)
    return next((of.params[name] for of in contexts if of.params.get(name)), None)


_Document = tuple[str, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]


class _Stored:
    """What can be told of the settings and a folder of runs without opening it as a store."""

    def __init__(self, context: click.Context) -> None:
        from perfkit.config.settings import Settings, load_settings, nearest_settings

        file = _given(context, "settings")
        try:
            self.settings = load_settings(file) if file else nearest_settings(Path.cwd())
        except PerfkitError:
            self.settings = Settings()
        self.folder = str(_given(context, "store") or self.settings.store)

    def ids(self, incomplete: str = "", most: int = MOST_IDS) -> list[str]:
        """The newest run ids that begin so, the newest first."""
        if "://" in self.folder:
            return []
        with suppress(OSError), os.scandir(self.folder) as entries:
            names = (item.name for item in entries if item.name.startswith(incomplete) and item.name[:1] not in "._")
            newest = nlargest(2 * most, names)
            return [name for name in newest if os.path.isfile(f"{self.folder}/{name}/run.json")][:most]  # noqa: PTH113
        return []

    def documents(self, ids: Iterable[str]) -> Iterator[_Document]:
        """Scenario, ``git``, ``labels`` and services of these runs, but of those that cannot be read."""
        for run_id in ids:
            with suppress(OSError, ValueError):
                document = json.loads(Path(self.folder, run_id, "run.json").read_bytes())
                if isinstance(document, dict):
                    git, labels, services = (
                        of if isinstance(of := document.get(key), dict) else {} for key in ("git", "labels", "services")
                    )
                    yield str(document.get("scenario", "")), git, labels, services

    def scenarios(self) -> list[str]:
        """Names of stored scenarios: of the newest runs, up to three, for each name that stands in the ids."""
        newest: dict[str, list[str]] = {}
        for run_id in self.ids(most=20 * MOST_IDS):
            match = _RUN_ID.match(run_id)
            newest.setdefault(match[1] if match else run_id, []).append(run_id)
        ids = [run_id for of_name in newest.values() for run_id in of_name[:3]][:MOST_READ]
        return list(dict.fromkeys(scenario for scenario, *_ in self.documents(ids)))

    def pinned(self) -> Iterator[tuple[str, str]]:
        """Scenario and name of each pinned baseline."""
        for file in sorted(Path(self.settings.baselines).glob("*/*.json")):
            with suppress(OSError, ValueError):
                document = json.loads(file.read_bytes())
                yield document.get("scenario", ""), document.get("name", "")


def _run_words(context: click.Context, incomplete: str) -> Iterator[str]:
    stored = _Stored(context)
    scenario, at, kind = incomplete.rpartition("@")
    if not at:
        yield from (f"{name}@{kind}" for name in stored.scenarios() for kind in ("last:5", "previous:5", "rolling"))
        yield from stored.ids(incomplete)
        return
    if ":" not in kind:
        yield from (f"{scenario}@{name}" for name in KINDS)
        return
    word = kind.partition(":")[0]
    if word == "pinned":
        yield from (f"{scenario}@pinned:{name}" for of, name in stored.pinned() if of == scenario)
    ids = [run_id for run_id in stored.ids() if scenario[:4].lower() in run_id.lower()][:MOST_READ]
    for git, labels in ((git, labels) for of, git, labels, _ in stored.documents(ids) if of == scenario):
        if word in ("commit", "branch") and git.get(word):
            yield f"{scenario}@{word}:{str(git[word])[: 10 if word == 'commit' else None]}"
        elif word == "label":
            yield from (f"{scenario}@label:{key}={value}" for key, value in labels.items())


@_completer
def complete_scenarios(context: click.Context, incomplete: str) -> Iterator[str]:
    stored = _Stored(context)
    yield from stored.settings.scenarios
    yield from stored.scenarios()
    if "@" in incomplete:
        yield from _run_words(context, incomplete)


@_completer
def complete_labels(context: click.Context, _: str) -> Iterator[str]:
    stored = _Stored(context)
    for _scenario, _git, labels, _services in stored.documents(stored.ids(most=MOST_READ)):
        yield from (f"{key}={value}" for key, value in labels.items())


def _service_names(context: click.Context, _: str) -> Iterator[str]:
    stored = _Stored(context)
    yield from (name for *_, services in stored.documents(stored.ids(most=MOST_SERVICES_READ)) for name in services)


@_completer
def complete_metrics(_context: click.Context, _: str) -> tuple[str, ...]:
    return (*SHORT_NAMES, *Metric)


@_completer
def complete_pages(_context: click.Context, _: str) -> Iterator[str]:
    return (path.stem for path in shipped_files("docs", "*.md") if "reference" not in path.parts)


complete_runs = _completer(_run_words)
complete_services = _completer(_service_names)
complete_explained = _completer(lambda context, word: (*_service_names(context, word), *SHORT_NAMES))
complete_files = _completer(lambda _context, _word: ())
complete_baselines = _completer(lambda context, _: (name for _, name in _Stored(context).pinned()))
