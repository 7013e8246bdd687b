"""The fold: recipe -> data -> model -> steps -> artefact -> probes -> report."""
