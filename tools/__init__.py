"""Programs for maintainers, which targets of the Makefile run: wheels, release, licences, sizes."""
