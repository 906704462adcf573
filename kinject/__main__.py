"""`python -m kinject`, and with it `accelerate launch -m kinject`: the command line."""

from kinject.cli import main

if __name__ == "__main__":
    main()
