package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/weir-io/weir/bridge/uplink"
)

// bridgeVerifyCmd is `weir bridge verify`. It shares nothing with the room uplink but the configuration, so that a fault there is not one here: it reads both ends as any
// consumer does.
type bridgeVerifyCmd struct {
	Uplink       string   `arg:"" help:"Its name."`
	Target       string   `placeholder:"HOST:PORT" help:"A broker of the target (default: those that the uplink has)."`
	Topic        []string `placeholder:"NAME" help:"Compare these topics only."`
	CA           string   `name:"target-ca" placeholder:"FILE" help:"The target's certificates (default: the file that the uplink names, if it is on this machine)."`
	PasswordFile string   `name:"target-password-file" placeholder:"FILE" help:"Password at the target (default: the file that the uplink names, if it is on this machine)."`
}

// Run reads the uplink's topics at both ends and fails when a record that the target has confirmed is missing there, is there twice, or is another one, and
// when one is there that is none here.
func (c *bridgeVerifyCmd) Run(g *Globals) error {
	var plan uplinkPlan
	if err := g.operate(opUplinkPlan, uplinkOrder{Uplink: c.Uplink}, &plan); err != nil {
		return fail("ask for the uplink", err)
	}
	if c.Target != "" {
		scheme, _, _ := strings.Cut(plan.To, "://")
		plan.To = scheme + "://" + c.Target
	}
	if c.CA != "" {
		plan.CA = c.CA
	}
	if c.PasswordFile != "" {
		plan.PasswordFile = c.PasswordFile
	}
	opts, err := plan.connect()
	if err != nil {
		return err
	}
	v := &verification{g: g, plan: &plan, opts: opts, topics: c.Topic, parts: map[origin]*carried{}}
	err = v.run()
	if g.Ctx.Err() != nil {
		return failf("verify %s: interrupted", c.Uplink) // half of it proves nothing: not exit 0
	}
	if err != nil {
		return fail("verify "+c.Uplink, err)
	}
	rep := v.report()
	if err := rep.print(g); err != nil {
		return err
	}
	return rep.verdict()
}

// uplinkPlan is what a node says of the uplink: all that it takes to read both ends. Files are named, not sent.
type uplinkPlan struct {
	Name         string   `json:"name"`
	Cluster      string   `json:"cluster"`
	Site         string   `json:"site,omitempty"`
	To           string   `json:"to"`
	Topics       []string `json:"topics"`
	Down         []string `json:"down,omitempty"` // topics here that get what comes down
	Rename       string   `json:"rename"`
	Guarantee    string   `json:"guarantee"`
	CA           string   `json:"ca,omitempty"`
	Cert         string   `json:"cert,omitempty"`
	Key          string   `json:"key,omitempty"`
	Mechanism    string   `json:"mechanism,omitempty"`
	User         string   `json:"user,omitempty"`
	PasswordFile string   `json:"password_file,omitempty"`

	Confirmed []uplink.Confirmed `json:"confirmed"` // what is stored here of what the target has confirmed, a second old at most
}

// remote is what a topic is called at the target.
func (p *uplinkPlan) remote(topic string) string {
	return strings.NewReplacer("{topic}", topic, "{site}", p.Site, "{cluster}", p.Cluster).Replace(p.Rename)
}

// connect makes the options of clients of the target.
func (p *uplinkPlan) connect() ([]kgo.Opt, error) {
	scheme, hosts, _ := strings.Cut(p.To, "://")
	if scheme != "kafka" && scheme != "kafkas" {
		return nil, usagef("the uplink %s goes to %s: only what is a Kafka log can be compared with ours", p.Name, p.To)
	}
	opts := []kgo.Opt{kgo.SeedBrokers(strings.Split(hosts, ",")...), kgo.ClientID("weir-verify"), kgo.DialTimeout(dialTimeout), kgo.RetryTimeout(requestTimeout), kgo.KeepRetryableFetchErrors()}
	if scheme == "kafkas" {
		conf := &tls.Config{MinVersion: tls.VersionTLS12}
		if p.CA != "" {
			pem, err := os.ReadFile(p.CA)
			if err != nil {
				return nil, usagef("the target's certificates: %w: name a copy with --target-ca", err)
			}
			if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, usagef("%s holds no PEM certificate", p.CA)
			}
		}
		if p.Cert != "" {
			pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
			if err != nil {
				return nil, usagef("the uplink's certificate: %w: run this on a node that has the uplink", err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		opts = append(opts, kgo.DialTLSConfig(conf))
	}
	if p.User == "" {
		return opts, nil
	}
	text, err := os.ReadFile(p.PasswordFile)
	if err != nil {
		return nil, usagef("the password at the target: %w: name a copy with --target-password-file", err)
	}
	pass := strings.TrimRight(string(text), "\r\n")
	switch p.Mechanism {
	case "PLAIN":
		return append(opts, kgo.SASL(plain.Auth{User: p.User, Pass: pass}.AsMechanism())), nil
	case "SCRAM-SHA-512":
		return append(opts, kgo.SASL(scram.Auth{User: p.User, Pass: pass}.AsSha512Mechanism())), nil
	}
	return append(opts, kgo.SASL(scram.Auth{User: p.User, Pass: pass}.AsSha256Mechanism())), nil
}

// planOf answers opUplinkPlan.
func planOf(c *uplink.Config, cluster, site string) uplinkPlan {
	var down []string
	for _, d := range c.Down {
		down = append(down, d.Topic)
	}
	return uplinkPlan{
		Name: c.Name, Cluster: cluster, Site: site, To: c.To, Topics: c.Topics, Down: down, Rename: c.Rename, Guarantee: c.Guarantee,
		CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key, Mechanism: c.SASL.Mechanism, User: c.SASL.User, PasswordFile: c.SASL.PasswordFile,
	}
}

// targetAdmin asks the target.
func targetAdmin(opts []kgo.Opt) (*kadm.Client, error) {
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, usageError{err}
	}
	return kadm.NewClient(cl), nil
}

// absent says whether a topic is simply not there.
func absent(err error) bool { return errors.Is(err, kerr.UnknownTopicOrPartition) }

// print shows one line for each partition of the source.
func (r *verifyReport) print(g *Globals) error {
	if g.JSON {
		return g.emit(r, nil)
	}
	rules := slices.ContainsFunc(r.Partitions, func(p verifyPartition) bool { return p.LeftOut+p.Filtered+p.Thinned+p.Averaged > 0 })
	t := newTable(leftOutColumn(rules, 11, "TOPIC", "PARTITION", "RECORDS", "ARRIVED", "WAITING", "MISSING", "DUPLICATES", "DIFFERING", "REORDERED", "DEAD", "GAPS", "LEFT OUT", "OFFSETS")...)
	for _, p := range r.Partitions {
		var shown []string
		for _, s := range []string{p.Missing.text("missing"), p.Duplicates.text("twice"), p.Differing.text("differ"), p.Strange.text("not here")} {
			if s != "" {
				shown = append(shown, s)
			}
		}
		if p.Unsaid > 0 {
			shown = append(shown, fmt.Sprintf("%d left out, and the target was told of fewer", p.Unsaid))
		}
		t.add(leftOutColumn[any](rules, 11, p.Topic, p.Partition, p.Records, p.Arrived, p.Waiting, p.Missing.Count, p.Duplicates.Count, p.Differing.Count, p.Reordered, p.Dead, p.Gaps, p.LeftOut, orDash(strings.Join(shown, "; ")))...)
	}
	if err := g.emit(nil, t); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(g.Out, printable(n))
	}
	return nil
}

// verdict is the exit.
func (r *verifyReport) verdict() error {
	var missing, twice, differ, strange, unsaid int64
	for _, p := range r.Partitions {
		missing, twice, differ, strange = missing+p.Missing.Count, twice+p.Duplicates.Count, differ+p.Differing.Count, strange+p.Strange.Count
		unsaid += p.Unsaid
	}
	if missing+twice+differ+strange+unsaid == 0 {
		if r.Forgotten {
			return failure{fmt.Errorf("verify %s: the target has no cursors of it, in %s, and had confirmed records: it was made anew, or restored from a copy", r.Uplink, cursorsTopic), "`weir bridge status` says what the uplink waits for"}
		}
		return nil
	}
	missing += unsaid
	return failure{fmt.Errorf("verify %s: at the target %d records are missing, %d are there twice, %d differ, %d are no committed ones here", r.Uplink, missing, twice, differ, strange), "the table says which; --json has every range"}
}
