// Command weir is the broker, its admin tool and its console clients.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the whole command line.
type cli struct {
	Globals
	Tools
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := cli{Globals: Globals{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Ctx: ctx}}
	parser := kong.Must(&c, kong.Name("weir"), kong.Description("Edge telemetry broker."))
	kctx, err := parser.Parse(os.Args[1:])
	if err == nil {
		err = kctx.Run(&c.Globals)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, errorLine(err))
	}
	os.Exit(exitCode(err))
}
