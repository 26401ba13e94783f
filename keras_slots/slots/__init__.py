"""The `.slots` file: a trained slot machine as a seed and one choice per connection. `docs/slots_format.md`."""
