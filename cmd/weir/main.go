// Command weir is the broker and all its tools in one binary: `weir serve` runs a node, the other commands talk to one
// over the Kafka protocol or read its files. main.go parses the command line; each command has a file of its own;
// node.go opens the rooms in the order in which data flows and closes them in reverse.
//
// # Metrics, besides those of the rooms
//
//	weir_http_connections               of the operator's listener, open now
//	weir_http_connections_refused_total beyond http.max_connections
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

// version is set by the Makefile through the linker.
var version = "dev"

// cli lists every command in the order in which --help shows it.
type cli struct {
	Globals

	Serve serveCmd `cmd:"" help:"Run a node."`
	Demo  demoCmd  `cmd:"" help:"Run a node or a cluster, a small simulated fleet and a consumer group with live figures."`
	Tools
	Inspect    inspectCmd    `cmd:"" help:"Read a node's files offline and verify every checksum."`
	Repair     repairCmd     `cmd:"" help:"Say what damage in a stopped node's directory costs, and with --yes make it start again."`
	Passwd     passwdCmd     `cmd:"" help:"Hash a password for the users-and-rules file."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print a shell's completion code, as in: source <(weir completion bash)."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: parse, run the command, turn its error into an exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	c := cli{Globals: Globals{In: stdin, Out: stdout, Err: stderr, Ctx: ctx}}
	exited := false
	parser, err := kong.New(&c,
		kong.Name("weir"),
		kong.Description("An edge telemetry broker: MQTT in, a durable replicated log inside, the Kafka protocol out."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(n int) { exited, code = true, n }),
	)
	if err != nil {
		panic("BUG: command line model: " + err.Error())
	}
	kongcompletion.Register(parser)
	if exited { // the shell asked for completions; what follows would be candidates too
		return code
	}
	switch {
	case len(args) == 0:
		args = []string{"--help"}
	case args[0] == "help":
		args = append(args[1:], "--help")
	}
	k, err := parser.Parse(args)
	if exited { // --help
		return code
	}
	if err == nil {
		err = k.Run(&c.Globals)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, errorLine(err))
	}
	return exitCode(err)
}

// completionCmd prints what a shell has to read so that it completes weir's commands and flags.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help names the line for each shell.
func (completionCmd) Help() string {
	return "In ~/.bashrc: source <(weir completion bash)\n\nIn ~/.zshrc: source <(weir completion zsh)\n\n" +
		"In ~/.config/fish/config.fish: weir completion fish | source"
}

// Run prints the code.
func (c *completionCmd) Run(k *kong.Context) error {
	return (&kongcompletion.Completion{Shell: c.Shell, Code: true}).Run(k)
}

// versionCmd prints what this binary is.
type versionCmd struct{}

// Run prints one line, or JSON.
func (versionCmd) Run(g *Globals) error {
	if g.JSON {
		fmt.Fprintf(g.Out, "{\"version\":%q,\"go\":%q,\"os\":%q,\"arch\":%q}\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
	fmt.Fprintf(g.Out, "weir %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if info, ok := debug.ReadBuildInfo(); ok && version == "dev" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				fmt.Fprintln(g.Out, "revision", s.Value)
			}
		}
	}
	return nil
}
