"""Recording a trajectory in one line: in plain loops, in Hugging Face's Trainer and in Lightning.

Each file that needs another library imports that library, so import the file that you use.
"""
