"""Completion for bash, from what the programs say of themselves."""

from deploy.package import flags

_SCRIPT = """\
# bash completion for {program}; made from its --help.
_{program}() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; ++i)); do
    # What follows is text.
    [[ ${{COMP_WORDS[i]}} != -- ]] || return 0
  done
  case $current in
    --*) mapfile -t COMPREPLY < <(compgen -W '{flags}' -- "$current") ;;
    *)
      if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W '{commands}' -- "$current")
      fi
      ;;
  esac
}}
# Else names of files.
complete -o default -F _{program} {program}
"""


def bash(program):
    """The script for a program, which lies in a file of the program's name."""
    text = flags.help_text(program)
    name = program.rsplit("/", 1)[-1]
    words = ["--" + flag.name for flag in flags.flags(program)] + ["--help", "--version"]
    commands = [command.name for command in flags.commands(text, name)]
    return _SCRIPT.format(program=name, flags=" ".join(words), commands=" ".join(commands))
