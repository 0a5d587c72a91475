"""Files as people bring them: rewards and tasks from outside the package."""
