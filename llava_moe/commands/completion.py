"""``llava-moe completion``: what a shell offers behind Tab, and the script by which it asks.

Keys come from Hydra's own completion; names, files of one's own and runs from where ``ls`` finds them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llava_moe.commands.find_instrument import summaries
from llava_moe.commands.table import COMMANDS, SECOND_WORDS
from llava_moe.config.config_folder import config_folder
from llava_moe.config.free_text import FREE_TEXT, MIXTURE_ENDINGS, NO_PATHS
from llava_moe.errors import UserError

SHELLS = ("bash", "zsh", "fish")
OFFERS = "offers"
"""The second word by which a script asks; the line up to the cursor stands in ``COMP_LINE``."""
FLAGS = ("--config-dir", "--cfg", "--multirun", "--help")
FOLDER_FLAGS = ("--config-dir", "-cd")
RUN_KEYS = ("run", "init_from")
_MOST_ENTRIES = 2_000

_BASH = r"""
_llava_moe() {
    local line="${COMP_LINE:0:COMP_POINT}" offer part cut
    part="${line##*[[:space:]]}"
    cut="${part%"${part##*[$COMP_WORDBREAKS]}"}"
    COMPREPLY=()
    while IFS= read -r offer; do
        offer="${offer#"$cut"}"
        [[ $offer == *[[:space:]]* ]] && printf -v offer '%q' "$offer"
        COMPREPLY+=("$offer")
    done < <(COMP_LINE="$line" "$1" completion offers 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -o default -F _llava_moe llava-moe
"""
_ZSH = r"""
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
_llava_moe() {
    local -a offers open closed
    offers=("${(@f)$(COMP_LINE="${BUFFER[1,CURSOR]}" ${words[1]} completion offers 2>/dev/null)}")
    offers=(${offers:#})
    open=(${(M)offers:#*[=./]})
    closed=(${offers:#*[=./]})
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
    (( $#offers ))
}
compdef _llava_moe llava-moe
"""
_FISH = r"""
function __llava_moe_offers
    set -lx COMP_LINE (commandline -cp)
    llava-moe completion offers 2>/dev/null
end
complete -c llava-moe -e
complete -c llava-moe -f -a '(__llava_moe_offers)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script_of(shell: str) -> str:
    """What a shell is to read to offer our words behind Tab."""
    how = "llava-moe completion fish | source" if shell == "fish" else f"source <(llava-moe completion {shell})"
    return f"# {how}\n{_SCRIPTS[shell].strip()}\n"


def offers_behind(line: str) -> list[str]:
    """What may stand in the place of the last word of a line; that word is empty behind a blank."""
    words = _split(line)
    part = "" if not line or line[-1].isspace() else words.pop()
    found = _offers(words[1:], part)
    return sorted({one for one in found if one.startswith(part) and "\n" not in one})


def _split(line: str) -> list[str]:
    for closed in (line, f"{line}'", f'{line}"'):
        with suppress(ValueError):
            return shlex.split(closed)
    return line.split()


def _offers(words: Sequence[str], part: str) -> list[str]:
    if not words:
        return [*COMMANDS, "--help", "--version"]
    command, rest = words[0], list(words[1:])
    if command not in COMMANDS:
        return []
    if command in SECOND_WORDS:
        seconds = [*(summaries() if command == "analyze" else SECOND_WORDS[command])]
        if not rest:
            return [*seconds, "--help"]
        if rest[0] not in seconds:
            return []
        command, rest = f"{command}_{rest[0]}", rest[1:]
    if rest and rest[-1] in FOLDER_FLAGS:
        return [one for one in _files(part) if one.endswith("/")]
    if command == "ls":
        from llava_moe.config.choices import KINDS

        return [*KINDS, "--config-dir"]
    if command == "completion":
        return [*SHELLS]
    if command == "help":
        from llava_moe.commands.help import all_words

        return all_words()
    key, equals, value = part.partition("=")
    if command == "init":
        return [f"{key}={file}" for file in _files(value)] if equals else ["images="]
    if part.startswith("-"):
        return [*FLAGS]
    return [f"{key}={one}" for one in _values(command, key, value, rest)] if equals else _keys(command, part, rest)


def _values(command: str, key: str, value: str, rest: Sequence[str]) -> list[str]:
    from llava_moe.config.key_limits import EVAL, TRAIN
    from llava_moe.config.limits import OneOf, OrNull

    bare = key.lstrip("+")
    if bare in _groups():
        from llava_moe.config.choices import names_of

        ends = (*MIXTURE_ENDINGS, "/") if value else MIXTURE_ENDINGS
        own = [one for one in _files(value) if one.endswith(ends)] if bare == "data" else []
        return [*names_of(bare, rest), *own]
    if bare in RUN_KEYS:
        from llava_moe.commands.ls_runs import run_folders

        return [*map(str, run_folders()), *(one for one in _files(value) if one.endswith("/"))]
    if bare in FREE_TEXT and bare not in NO_PATHS:
        return _files(value)
    limit = (EVAL if command == "eval" else TRAIN).get(bare)
    limit = limit.limit if isinstance(limit, OrNull) else limit
    options = limit.options if isinstance(limit, OneOf) else ()
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in options]


def _groups() -> list[str]:
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir())


def _keys(command: str, part: str, rest: Sequence[str]) -> list[str]:
    """Keys of the command's configurations with the words before applied, as Hydra's own completion finds them."""
    from hydra.plugins.completion_plugin import CompletionPlugin
    from omegaconf import OmegaConf

    from llava_moe.config.hydra_compose import composed_for_keys
    from llava_moe.config.key_descriptions import TAKES_TRAINS
    from llava_moe.config.own_yamls import split_folders

    own = config_folder() / f"{command}.yaml"
    takes_trains = command in TAKES_TRAINS
    names = [*(["train"] if takes_trains else []), *([command] if own.is_file() and command != "train" else [])]
    found = [f"{group}=" for group in _groups() if group != "sizes"] if takes_trains else []
    for name in names:
        # Other words decide no key.
        folders, others = split_folders(rest)
        chosen = [word for word in others if word.partition("=")[0] in _groups()]
        words = [*(f"--config-dir={folder}" for folder in folders), *chosen] if name == "train" else []
        config = composed_for_keys(name, words)
        for match in CompletionPlugin._get_matches(config, part):
            is_list = match.endswith(".") and OmegaConf.is_list(OmegaConf.select(config, match[:-1]))
            found.append(f"{match[:-1]}=" if is_list else match)
    return [one for one in found if not one.startswith(("hydra.", "stages")) and "_target_" not in one]


def _files(part: str) -> list[str]:
    """Files and folders that a part of a path may become, folders with a slash behind."""
    folder, name = os.path.split(part)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            found = [(entry.name, entry.is_dir()) for _, entry in zip(range(_MOST_ENTRIES), entries, strict=False)]
    except OSError:
        return []
    shown = [(one, is_folder) for one, is_folder in found if name.startswith(".") or not one.startswith(".")]
    return [str(Path(folder, one)) + ("/" if is_folder else "") for one, is_folder in shown]


def refuse_shell(words: Sequence[str]) -> None:
    """Refuse what is no shell whose script is here.

    Raises:
        UserError: naming those that are.
    """
    if len(words) != 1 or words[0] not in (*SHELLS, OFFERS):
        told = f"completion {words[0]}: " if words else ""
        raise UserError(f"{told}name one shell of {', '.join(SHELLS)}, such as: source <(llava-moe completion bash)")
