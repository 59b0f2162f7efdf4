"""python -m data_manager: the same as the console script data-manager."""

from data_manager.cli import main

main()
