package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/weir-io/weir/mqtt"
)

// passwdCmd hashes a password for the users-and-rules file, so that no password is ever an argument that `ps` shows.
type passwdCmd struct{}

// Run asks on a terminal without echo, twice; elsewhere it reads one line.
func (passwdCmd) Run(g *Globals) error {
	password, err := readPassword(g)
	if err != nil {
		return err
	}
	if len(password) == 0 {
		return usagef("the password is empty: type one, or give it as a line on stdin")
	}
	hash, err := mqtt.HashPassword(password)
	if err != nil {
		return fail("hash the password", err)
	}
	if g.JSON {
		_, err = fmt.Fprintf(g.Out, "{\"password\":%q}\n", hash)
	} else {
		_, err = fmt.Fprintln(g.Out, hash)
	}
	return err
}

func readPassword(g *Globals) ([]byte, error) {
	f, ok := g.In.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(g.In, 4096)).ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fail("read the password", err)
		}
		return bytes.TrimRight(line, "\r\n"), nil
	}
	var typed [2][]byte
	for i, prompt := range []string{"Password: ", "Once more: "} {
		fmt.Fprint(g.Err, prompt)
		var err error
		typed[i], err = term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(g.Err)
		if err != nil {
			return nil, fail("read the password", err)
		}
	}
	if !bytes.Equal(typed[0], typed[1]) {
		return nil, failf("the two passwords differ; nothing was hashed: run weir passwd again")
	}
	return typed[0], nil
}
