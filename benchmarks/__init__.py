"""What the project measures, in folders by what a measurement is about.

    learning    does a run get better, and by which method
    fidelity    do files, meshes and other implementations tell the same story
    survival    does a run end in the same bytes however often it is killed
    speed       seconds and memory, beside what others take
    compiled    what the compiler says about devices that need not be there
    grading     how right, and how fast, responses are graded

Every script runs from the root of the repository as `python -m benchmarks.FOLDER.NAME`, explains
itself under `--help`, and has a section in README.md with its figures.
"""
