package main

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// dialTimeout bounds the first contact with a node, so that a wrong address is told at once and not after kgo's retries.
const dialTimeout = 5 * time.Second

// requestTimeout bounds one admin request including kgo's retries.
const requestTimeout = 30 * time.Second

func (g *Globals) seeds() ([]string, error) {
	var seeds []string
	for _, s := range strings.Split(g.Bootstrap, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(s); err != nil {
			return nil, usagef("--bootstrap %s: want HOST:PORT, as in 127.0.0.1:9092", s)
		}
		seeds = append(seeds, s)
	}
	if len(seeds) == 0 {
		return nil, usagef("--bootstrap is empty: want HOST:PORT, as in 127.0.0.1:9092")
	}
	return seeds, nil
}

// client connects to the cluster. The caller closes it.
func (g *Globals) client(opts ...kgo.Opt) (*kgo.Client, error) {
	seeds, err := g.seeds()
	if err != nil {
		return nil, err
	}
	if err := reach(g.Ctx, seeds); err != nil {
		return nil, fail("connect", err)
	}
	login, err := g.login()
	if err != nil {
		return nil, err
	}
	opts = append([]kgo.Opt{
		login,
		kgo.SeedBrokers(seeds...),
		kgo.ClientID("weir"),
		kgo.DialTimeout(dialTimeout),
		kgo.RetryTimeout(requestTimeout),
		kgo.MetadataMinAge(500 * time.Millisecond), // or its tries are used up at a leader that has died before it looks for the next
		kgo.KeepRetryableFetchErrors(),             // pollError tells those that pass from damage
	}, opts...)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, usageError{err}
	}
	return cl, nil
}

// login is how the tools prove who they are: not at all without --user.
func (g *Globals) login() (kgo.Opt, error) {
	user, password, err := g.credentials()
	if err != nil || user == "" {
		return kgo.SASL(), err
	}
	return kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()), nil
}

// credentials are --user and its password, which is never an argument that ps shows.
func (g *Globals) credentials() (user, password string, err error) {
	if g.User == "" {
		return "", "", nil
	}
	password = os.Getenv("WEIR_PASSWORD")
	if g.Password != "" {
		text, err := os.ReadFile(g.Password)
		if err != nil {
			return "", "", usagef("--password-file: %v", err)
		}
		password, _, _ = strings.Cut(string(text), "\n")
		password = strings.TrimSuffix(password, "\r")
	}
	if password == "" {
		return "", "", usagef("--user %s: put the password into $WEIR_PASSWORD, or into a file that --password-file names", g.User)
	}
	return g.User, password, nil
}

// admin is client with the admin API on top. Close closes both.
func (g *Globals) admin(opts ...kgo.Opt) (*kadm.Client, error) {
	cl, err := g.client(opts...)
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(cl), nil
}

// reach dials the seeds until one answers, and returns the first error if none does.
func reach(ctx context.Context, seeds []string) error {
	var first error
	d := net.Dialer{Timeout: dialTimeout}
	for _, s := range seeds {
		c, err := d.DialContext(ctx, "tcp", s)
		if err == nil {
			return c.Close()
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func isExists(err error) bool { return errors.Is(err, kerr.TopicAlreadyExists) }

// passing reports whether an error of a long-lived client is one that it gets over by itself: a node that restarts, a
// coordinator that moves. A console client outlives that, as kcat does.
func passing(err error) bool {
	var op *net.OpError
	return kerr.IsRetriable(err) && !errors.Is(err, kerr.CorruptMessage) || kgo.IsRetryableBrokerErr(err) || errors.As(err, &op)
}
