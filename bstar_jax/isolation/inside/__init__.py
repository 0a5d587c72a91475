"""What runs inside the sandbox: a harness and the submission that it tests, in two processes.

    trainer  <- frames ->  harness (process 1 of the sandbox)  <- frames ->  submission

The harness runs the tests. The submission, a program that a response holds, runs in a process of
its own that was forked before any test arrived, under its limits and a seccomp filter that keeps
it from looking into the harness. What passes between the two is data: the harness sends arguments
and gets back plain values (numbers, texts, lists, ...), which it then compares. So a submission
may patch all that it reaches, and never reaches what decides. An object whose `__eq__` is always
true arrives as a mere handle, which equals nothing. A submission can say whatever it likes, but
it has to know what to say.

These files use only the standard library, and of that only what starts fast: they are run by a
bare interpreter that can see nothing else of the project.
"""
