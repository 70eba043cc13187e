package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/weir-io/weir/internal/strictyaml"
	"github.com/weir-io/weir/log/vfs"
)

// serveCmd runs a node in the foreground. Flags are pointers so that what was not given leaves the file's value.
type serveCmd struct {
	Config      string `help:"YAML file; flags and WEIR_* variables override it." type:"path" placeholder:"FILE" env:"WEIR_CONFIG"`
	CheckConfig bool   `help:"Read the configuration, say what is wrong with it, and exit."`

	NodeID    *string `name:"node-id" help:"Unique and stable name of this node (default: the host name)." env:"WEIR_NODE_ID"`
	Data      *string `help:"Everything the node keeps (default ./weir-data)." type:"path" env:"WEIR_DATA"`
	Advertise *string `help:"Host that clients are told (default: the listener's own)." env:"WEIR_ADVERTISE"`
	MQTT      *string `name:"mqtt" help:"MQTT over TCP (default 127.0.0.1:1883)." placeholder:"HOST:PORT" env:"WEIR_MQTT"`
	MQTTTLS   *string `name:"mqtt-tls" help:"MQTT over TLS (usually port 8883)." placeholder:"HOST:PORT" env:"WEIR_MQTT_TLS"`
	MQTTWS    *string `name:"mqtt-ws" help:"MQTT over WebSocket, path /mqtt (default 127.0.0.1:8083)." placeholder:"HOST:PORT" env:"WEIR_MQTT_WS"`
	Kafka     *string `name:"kafka" help:"Kafka protocol (default 127.0.0.1:9092)." placeholder:"HOST:PORT" env:"WEIR_KAFKA"`
	KafkaTLS  *string `name:"kafka-tls" help:"Kafka protocol over TLS (usually port 9093)." placeholder:"HOST:PORT" env:"WEIR_KAFKA_TLS"`
	HTTP      *string `name:"http" help:"Metrics, health, API and console (default 127.0.0.1:8080)." placeholder:"HOST:PORT" env:"WEIR_HTTP"`
	TLSCert   *string `name:"tls-cert" help:"Certificate of the TLS listeners, PEM." type:"path" env:"WEIR_TLS_CERT"`
	TLSKey    *string `name:"tls-key" help:"Key of the TLS listeners, PEM." type:"path" env:"WEIR_TLS_KEY"`
	AuthFile  *string `name:"auth-file" help:"Users and rules of MQTT clients; once given, what no rule allows is refused." type:"path" env:"WEIR_AUTH_FILE"`
	Gossip    *string `name:"gossip" help:"Where nodes find each other, TCP and UDP (default 127.0.0.1:7946)." placeholder:"HOST:PORT" env:"WEIR_GOSSIP"`
	Raft      *string `name:"raft" help:"Between nodes: metadata, replication, forwarding (default 127.0.0.1:7947)." placeholder:"HOST:PORT" env:"WEIR_RAFT"`
	Join      *string `help:"Gossip addresses of nodes to join, comma separated; tried for ever." placeholder:"HOST:PORT,…" env:"WEIR_JOIN"`
	Expect    *int    `help:"Nodes that must be there before the cluster is first formed (default 1 without --join; with it a node only joins)." placeholder:"N" env:"WEIR_EXPECT"`
	Profile   *string `help:"Timings: fast, lan or edge (default lan)." placeholder:"NAME" env:"WEIR_PROFILE"`
	Zone      *string `help:"Rack or cabinet; replicas are spread over zones." env:"WEIR_ZONE"`
	Witness   *bool   `help:"Vote on metadata only, and keep no records." env:"WEIR_WITNESS"`
	Keyring   *string `help:"Keys of the cluster, made by 'weir cluster keygen'; needed beyond loopback." type:"path" placeholder:"FILE" env:"WEIR_KEYRING"`
	Insecure  *bool   `help:"Allow listening beyond loopback without authentication." env:"WEIR_INSECURE"`

	disk vfs.FS // of tests; nil: the operating system's
}

// load builds the configuration in the order of precedence and checks it as a whole.
func (s *serveCmd) load() (Config, error) {
	c := Defaults()
	if s.Config != "" {
		if err := c.loadFile(s.Config); err != nil {
			return c, err
		}
	}
	for _, o := range []struct {
		from *string
		to   *string
	}{
		{s.NodeID, &c.Node.ID}, {s.Data, &c.Node.Data}, {s.Advertise, &c.Node.Advertise},
		{s.MQTT, &c.MQTT.Listen}, {s.MQTTTLS, &c.MQTT.TLS}, {s.MQTTWS, &c.MQTT.WS},
		{s.Kafka, &c.Kafka.Listen}, {s.KafkaTLS, &c.Kafka.TLS}, {s.HTTP, &c.HTTP.Listen},
		{s.TLSCert, &c.TLS.Cert}, {s.TLSKey, &c.TLS.Key}, {s.AuthFile, &c.Auth.File},
		{s.Gossip, &c.Cluster.Gossip}, {s.Raft, &c.Cluster.Raft}, {s.Profile, &c.Cluster.Profile}, {s.Zone, &c.Cluster.Zone}, {s.Keyring, &c.Cluster.Keyring},
	} {
		if o.from != nil {
			*o.to = *o.from
		}
	}
	if s.Join != nil {
		c.Cluster.Join = strings.FieldsFunc(*s.Join, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if s.Expect != nil {
		c.Cluster.Expect = *s.Expect
	}
	if s.Witness != nil {
		c.Cluster.Witness = *s.Witness
	}
	if s.Insecure != nil {
		c.Insecure = *s.Insecure
	}
	if err := c.Validate(); err != nil {
		if s.Config != "" {
			if text, readErr := os.ReadFile(s.Config); readErr == nil && !s.overrides() {
				err = strictyaml.WithLines(text, err)
			}
			return c, fmt.Errorf("%s: %w", s.Config, err)
		}
		return c, err
	}
	return c, nil
}

// overrides tells whether a flag or variable may be at fault instead of a line of the file.
func (s *serveCmd) overrides() bool {
	for _, f := range []*string{s.NodeID, s.Data, s.Advertise, s.MQTT, s.MQTTTLS, s.MQTTWS, s.Kafka, s.KafkaTLS, s.HTTP, s.TLSCert, s.TLSKey, s.AuthFile,
		s.Gossip, s.Raft, s.Join, s.Profile, s.Zone, s.Keyring} {
		if f != nil {
			return true
		}
	}
	return s.Insecure != nil || s.Expect != nil || s.Witness != nil
}

// Run serves until SIGTERM or SIGINT, then drains; a second signal exits at once.
func (s *serveCmd) Run(g *Globals) error {
	cfg, err := s.load()
	if err != nil {
		return usageError{err}
	}
	if s.CheckConfig {
		if _, err := cfg.openFiles(); err != nil {
			return usageError{err}
		}
		if g.JSON {
			return g.emit(map[string]bool{"valid": true}, nil)
		}
		_, err := fmt.Fprintln(g.Out, "configuration is valid")
		return err
	}
	logger := newLogger(os.Stderr)
	ctx := g.Ctx // ends with the first SIGTERM or SIGINT
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	node, err := openNodeOn(ctx, cfg, cmp.Or[vfs.FS](s.disk, vfs.OS{}), logger)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // stopped while it started
	}
	if err != nil {
		return fail("start the node", err)
	}
	if s.Config != "" {
		node.reloadConfig = s.load // only routes and uplinks change while a node runs
	}
	fmt.Fprintln(g.Out, node.readyLine())
	go func() {
		stops := 0
		for sig := range signals {
			switch {
			case sig != syscall.SIGHUP:
				if stops++; stops > 1 {
					logger.Warn("second signal: exiting without draining")
					os.Exit(exitFailed)
				}
				logger.Info("draining; a second signal exits at once", "signal", sig.String())
			case ctx.Err() == nil:
				if err := node.reload(); err != nil {
					logger.Error("reload refused", "error", err)
				}
			}
		}
	}()
	return node.run(ctx)
}

// newLogger logs text to a terminal and JSON elsewhere.
func newLogger(f *os.File) *slog.Logger {
	if term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(f, nil))
	}
	return slog.New(slog.NewJSONHandler(f, nil))
}
