"""The core that the numbered stage scripts call. Imports run one way: see docs in the README's tree."""
