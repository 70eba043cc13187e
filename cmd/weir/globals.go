package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Exit codes, fixed by the contract: scripts branch on them.
const (
	exitDone   = 0
	exitFailed = 1 // the operation failed
	exitUsage  = 2 // usage or configuration: trying again does not help
)

// Globals is what every command gets: the flags that all of them share, and the streams and context that main fills in
// (tests put their own). Run methods read and write only through it.
type Globals struct {
	Bootstrap string `default:"127.0.0.1:9092" env:"WEIR_BOOTSTRAP" placeholder:"HOST:PORT" help:"Kafka listener of any node, or several separated by commas (default ${default})."`
	User      string `env:"WEIR_USER" placeholder:"NAME" help:"Log in as this user, where nodes ask clients who they are (kafka.sasl). The password is in $$WEIR_PASSWORD or --password-file."`
	Password  string `name:"password-file" env:"WEIR_PASSWORD_FILE" type:"path" placeholder:"FILE" help:"File whose first line is the password of --user."`
	JSON      bool   `name:"json" help:"Print JSON instead of a table."`

	In  io.Reader       `kong:"-"`
	Out io.Writer       `kong:"-"`
	Err io.Writer       `kong:"-"`
	Ctx context.Context `kong:"-"` // cancelled by SIGINT and SIGTERM
}

// Tools are the commands that are clients of a node.
type Tools struct {
	Topics  topicsCmd  `cmd:"" help:"List, create, describe, alter and delete topics."`
	Produce produceCmd `cmd:"" help:"Produce the lines of stdin."`
	Consume consumeCmd `cmd:"" help:"Print records."`
	Groups  groupsCmd  `cmd:"" help:"List, describe, reset and delete consumer groups."`
	Cluster clusterCmd `cmd:"" help:"Show and change the cluster: nodes, replicas, keys, recovery."`
	Bridge  bridgeCmd  `cmd:"" help:"Show, pause, resume and verify uplinks."`
	Audit   auditCmd   `cmd:"" help:"Check each device's sequence numbers: gaps, duplicates, reorderings."`
	Alerts  alertsCmd  `cmd:"" help:"Raise alerts by rules over per-device windows."`
	Bench   benchCmd   `cmd:"" help:"Load and latency figures."`
}

// usageError is a wrong flag, argument or configuration: exit 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// usagef returns a usageError; the text says which flag or key, what is wrong and what is right.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// failure is an operation that did not work: exit 1. advice is the way out and may be empty.
type failure struct {
	err    error
	advice string
}

func (e failure) Error() string {
	if e.advice == "" {
		return e.err.Error()
	}
	return strings.TrimSuffix(e.err.Error(), ".") + "; " + e.advice // Kafka's texts end in a full stop
}
func (e failure) Unwrap() error { return e.err }

// failf returns a failure without advice, for texts that carry their own.
func failf(format string, args ...any) error { return failure{err: fmt.Errorf(format, args...)} }

// fail wraps err with what was being done and, for the faults people meet every day, with the way out.
// A nil err stays nil; an error that already knows its exit code keeps it.
func fail(doing string, err error) error {
	var u usageError
	var f failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &u):
		return err
	case errors.As(err, &f):
		return failure{fmt.Errorf("%s: %w", doing, f.err), f.advice}
	}
	return failure{fmt.Errorf("%s: %w", doing, err), adviceFor(err)}
}

func adviceFor(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "start a node there with `weir serve`, or name another with --bootstrap HOST:PORT"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process listens there: stop it, or choose other addresses with --mqtt, --mqtt-ws, --kafka and --http"
	case errors.As(err, &dns):
		return "check the host name in --bootstrap"
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return "see `weir topics list`, or make it with `weir topics create NAME`"
	case errors.Is(err, kerr.TopicAlreadyExists):
		return "pick another name, or change it with `weir topics alter NAME`"
	case errors.Is(err, kerr.GroupIDNotFound):
		return "see `weir groups list`"
	case errors.Is(err, kerr.NonEmptyGroup), errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.RebalanceInProgress):
		return "stop the group's consumers first; `weir groups describe G` names them"
	case errors.Is(err, kerr.InvalidReplicationFactor):
		return "use --replicas no greater than the number of nodes"
	case errors.Is(err, context.DeadlineExceeded):
		return "the node did not answer in time; check its log and /readyz"
	}
	return ""
}

// exitCode maps the error a command returned to the process's exit code. Being interrupted is not a failure.
func exitCode(err error) int {
	var u usageError
	var p *kong.ParseError
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return exitDone
	case errors.As(err, &u), errors.As(err, &p):
		return exitUsage
	}
	return exitFailed
}

// errorLine renders err as the single line that goes to stderr. A command line that cannot be read is answered with the
// help of the command that was reached.
func errorLine(err error) string {
	line := "weir: " + strings.Join(strings.Fields(err.Error()), " ")
	var p *kong.ParseError
	if errors.As(err, &p) && p.Context != nil {
		name := "weir"
		if node := p.Context.Selected(); node != nil {
			name = node.FullPath()
		}
		line += "; see `" + name + " --help`"
	}
	return line
}
