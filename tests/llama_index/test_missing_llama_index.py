"""What is said where LlamaIndex is not installed."""

import subprocess
import sys


def test_the_error_says_what_to_install():
    script = "import sys; sys.modules['llama_index_instrumentation'] = None; import llama_index_aligner"
    ran = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert "MissingDependencyError: llama_index_aligner needs LlamaIndex: pip install" in ran.stderr
