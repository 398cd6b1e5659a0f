//go:build tools

package main

// The suite's own command is built from here too: its versions are kept by naming it.
import _ "github.com/summerwind/h2spec/cmd/h2spec"
