package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/bridge/alert"
)

// alertsCmd is `weir alerts …`.
type alertsCmd struct {
	Run   alertsRunCmd   `cmd:"" help:"Watch topics by a rule file: print alerts and produce them to the topic alerts."`
	Check alertsCheckCmd `cmd:"" help:"Check a rule file."`
}

type alertsRunCmd struct {
	File  string `arg:"" help:"Rule file (YAML)."`
	Group string `placeholder:"G" help:"Consumer group (default: the file's, else weir-alerts)."`
}

func readRules(path string) (*alert.File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("read the rules: %w; name an existing rule file (an example: deploy/rules.yaml)", err)
	}
	f, err := alert.Parse(text)
	if err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	return f, nil
}

// Run watches until it is interrupted. Alerts go to stdout, one a line.
func (c *alertsRunCmd) Run(g *Globals) error {
	rules, err := readRules(c.File)
	if err != nil {
		return err
	}
	if c.Group != "" {
		rules.Group = c.Group
	}
	seeds, err := g.seeds()
	if err != nil {
		return err
	}
	if err := reach(g.Ctx, seeds); err != nil {
		return fail("connect", err)
	}
	login, err := g.login()
	if err != nil {
		return err
	}
	out := json.NewEncoder(g.Out)
	out.SetEscapeHTML(false)
	return fail("alerts", alert.Run(g.Ctx, alert.Config{
		Rules:  rules,
		Client: []kgo.Opt{login, kgo.SeedBrokers(seeds...), kgo.ClientID("weir-alerts"), kgo.DialTimeout(dialTimeout)},
		Print: func(a alert.Alert) {
			if g.JSON {
				_ = out.Encode(a) // a reader that went away is no reason to stop watching
				return
			}
			fmt.Fprintln(g.Out, printable(a.String()))
		},
		Ready: func() {
			fmt.Fprintf(g.Err, "watching %s by %d rules as group %s; alerts go to topic %s\n", strings.Join(rules.Topics(), ", "), len(rules.Rules), rules.Group, rules.Output)
		},
		Logger: slog.New(slog.NewTextHandler(g.Err, nil)),
	}))
}

type alertsCheckCmd struct {
	File string `arg:"" help:"Rule file (YAML)."`
}

// Run prints the rules with their defaults filled in.
func (c *alertsCheckCmd) Run(g *Globals) error {
	rules, err := readRules(c.File)
	if err != nil {
		return err
	}
	type row struct {
		Rule    string `json:"rule"`
		Topic   string `json:"topic"`
		Devices string `json:"devices"`
		Fires   string `json:"fires"`
	}
	rows, t := []row{}, newTable("RULE", "TOPIC", "DEVICES", "FIRES")
	for _, r := range rules.Rules {
		fires := fmt.Sprintf("silent for %v", r.Absent)
		if r.Window > 0 {
			fires = fmt.Sprintf("%s over %v every %v", strings.TrimSpace(r.Field+": "+r.When), r.Window, r.Every)
		}
		rows = append(rows, row{r.Name, r.Topic, r.Devices, fires})
		t.add(r.Name, r.Topic, r.Devices, fires)
	}
	return g.emit(rows, t)
}
