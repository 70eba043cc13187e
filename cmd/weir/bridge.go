package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-io/weir/bridge/uplink"
)

// bridgeCmd is `weir bridge …`.
type bridgeCmd struct {
	Status bridgeStatusCmd `cmd:"" help:"Show what uplinks have carried, what waits, and what stops them."`
	Pause  bridgePauseCmd  `cmd:"" help:"Have an uplink carry nothing until it is resumed. Its records are kept."`
	Resume bridgeResumeCmd `cmd:"" help:"Have an uplink go on."`
	Verify bridgeVerifyCmd `cmd:"" help:"Compare what an uplink has carried with what is here: exit 1 if a record is missing there, is there twice, or is another one."`
}

type bridgeStatusCmd struct{}

// Run prints one line for each shard.
func (c *bridgeStatusCmd) Run(g *Globals) error {
	var a uplinksAnswer
	if err := g.operate(opUplinks, struct{}{}, &a); err != nil {
		return fail("ask for the uplinks", err)
	}
	if g.JSON {
		return g.emit(a, nil)
	}
	if len(a.Uplinks) == 0 {
		_, err := fmt.Fprintln(g.Out, "the node has no uplinks: name some under uplinks: in its configuration file")
		return err
	}
	rules := slices.ContainsFunc(a.Uplinks, func(s uplink.Status) bool { return s.Filtered+s.Thinned+s.Full > 0 })
	t := newTable(leftOutColumn(rules, 8, "UPLINK", "TO", "OWNER", "STATE", "LAG", "LAG BYTES", "LAG TIME", "CARRIED", "LEFT OUT", "DEAD", "GAPS", "CONFIRMED")...)
	for _, s := range a.Uplinks {
		name := s.Uplink
		if s.Shard > 0 {
			name = fmt.Sprintf("%s/%d", name, s.Shard)
		}
		confirmed := "-"
		if s.Confirmed != nil {
			confirmed = time.Since(*s.Confirmed).Round(time.Second).String() + " ago"
		}
		t.add(leftOutColumn[any](rules, 8, name, s.To, orDash(s.Node), s.State, s.LagRecords, sizeText(s.LagBytes), time.Duration(s.LagSeconds*float64(time.Second)).Round(time.Second), s.Records, s.Filtered+s.Thinned+s.Full, s.DeadLetters, s.GapRecords, confirmed)...)
	}
	if err := g.emit(nil, t); err != nil {
		return err
	}
	for _, s := range a.Uplinks {
		if why := bridgeWhy(s); why != "" {
			fmt.Fprintf(g.Out, "%s: %s\n", s.Uplink, printable(why))
		}
		if s.Link != "" {
			fmt.Fprintf(g.Out, "%s: over the link %s\n", s.Uplink, printable(s.Link))
		}
		if s.LinkError != "" {
			fmt.Fprintf(g.Out, "%s: nobody can tell which link it is: %s\n", s.Uplink, printable(s.LinkError))
		}
		if s.Warning != "" {
			fmt.Fprintf(g.Out, "%s: %s\n", s.Uplink, printable(s.Warning))
		}
		if s.Unjudged > 0 {
			fmt.Fprintf(g.Out, "%s: %d records are carried as they are: their lane's filter, fields or thin could not read them\n", s.Uplink, s.Unjudged)
		}
		if s.DownRecords > 0 {
			fmt.Fprintf(g.Out, "%s: %d records came down\n", s.Uplink, s.DownRecords)
		}
		if s.DownError != "" {
			fmt.Fprintf(g.Out, "%s: nothing comes down of %s\n", s.Uplink, printable(s.DownError))
		}
	}
	for _, away := range a.Away {
		fmt.Fprintf(g.Err, "no answer from %s\n", printable(away))
	}
	return nil
}

// bridgeWhy says what a shard waits for.
func bridgeWhy(s uplink.Status) string {
	var parts []string
	if s.Why != "" {
		parts = append(parts, s.Why)
	}
	if s.Until != nil {
		parts = append(parts, "until "+s.Until.Local().Format("Mon 15:04:05"))
	}
	return strings.Join(parts, " ")
}

type bridgePauseCmd struct {
	Uplink string `arg:"" help:"Its name."`
}

func (c *bridgePauseCmd) Run(g *Globals) error {
	if err := g.operate(opUplinkPause, uplinkOrder{Uplink: c.Uplink}, &struct{}{}); err != nil {
		return fail("pause the uplink", err)
	}
	return said(g, map[string]string{"paused": c.Uplink}, "%[1]s is paused: what it has to carry is kept until `weir bridge resume %[1]s`", c.Uplink)
}

type bridgeResumeCmd struct {
	Uplink string `arg:"" help:"Its name."`
	From   string `enum:"target,here," default:"" help:"What to do about records that the target had confirmed and has forgotten: send again from where the target is, or leave them out and go on here."`
}

func (c *bridgeResumeCmd) Run(g *Globals) error {
	if err := g.operate(opUplinkResume, uplinkOrder{Uplink: c.Uplink, From: c.From}, &struct{}{}); err != nil {
		return fail("resume the uplink", err)
	}
	return said(g, map[string]string{"resumed": c.Uplink}, "%s goes on; `weir bridge status` shows how it does", c.Uplink)
}

// sizeText is bytes as people read them.
func sizeText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
