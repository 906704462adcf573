"""The paper's tables and figures, each by one command (the same as `kinject reproduce`).

    python recipes/reproduce.py table5 --scale nano      # fictional people, minutes on two CPU cores
    python recipes/reproduce.py table5 --scale smol --data_dir data      # published data, hours on two CPU cores
    python recipes/reproduce.py table5 --scale paper --data_dir data     # the published set-up, several GPUs
    python recipes/reproduce.py table5 --scale paper --dry-run           # what it would cost

Tables are defined in `recipes/tables/`; their results are in `recipes/README.md`.
"""

from kinject.reproduction.command import main

if __name__ == "__main__":
    main()
