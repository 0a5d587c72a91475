"""What runs inside the sandbox: a judge, and the program that it judges, in two processes.

    trainer  <- frames ->  judge (process 1 of the sandbox)  <- frames ->  program

The judge runs the tests. The program runs in a process of its own that was forked before any test
arrived, under its limits and a seccomp filter that keeps it from looking into the judge. What
passes between the two is data: the judge sends arguments, and gets back plain values (numbers,
texts, lists, ...), which it then compares. So a program may patch all that it reaches, and never
reaches what decides; an object whose `__eq__` is always true arrives as a mere handle, equal to
nothing. It can say whatever it likes, but it has to know what to say.

These files use the standard library alone, and of that what starts fast: they are run by a bare
interpreter in which nothing else of the project can be seen.
"""
