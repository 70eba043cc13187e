package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// inspectCmd reads a node's files without changing anything; the node may run meanwhile.
type inspectCmd struct {
	Segment inspectSegmentCmd `cmd:"" help:"Print each batch of a segment (.log); also each entry of a journal file, an index or a snapshot."`
	Data    inspectDataCmd    `cmd:"" help:"Read a whole data directory and verify every checksum."`
}

// inspectSegmentCmd prints one line per batch or entry, then what the file holds as a whole.
type inspectSegmentCmd struct {
	File    string `arg:"" type:"existingfile" help:"The file."`
	Records bool   `help:"Also check that every record of every batch can be read."`
}

// Run exits 1 when the file is damaged.
func (c *inspectSegmentCmd) Run(g *Globals) error {
	in := log.Inspector{Records: c.Records, Line: func(s fmt.Stringer) error { return inspectLine(g, s) }}
	c.File = shortPath(c.File)
	report, err := in.InspectFile(g.Ctx, c.File)
	if err != nil {
		return fail("inspect", err)
	}
	if err := inspectLine(g, report); err != nil {
		return err
	}
	if report.Damaged() {
		return damaged(c.File, len(report.Faults))
	}
	return nil
}

// inspectDataCmd prints a line per damaged file (all files and metadata entries with --all), the identity and the metadata, then the total.
type inspectDataCmd struct {
	Dir     string `arg:"" type:"existingdir" help:"The data directory."`
	All     bool   `help:"Print a line for every file, not only for damaged ones, and for every metadata entry."`
	Records bool   `help:"Also check that every record of every batch can be read."`
}

// Run exits 1 when anything is damaged.
func (c *inspectDataCmd) Run(g *Globals) error {
	var bar *progress
	defer func() { bar.finish() }()
	var last int64
	in := log.Inspector{
		Records: c.Records,
		File: func(r *log.FileReport) error {
			if c.All || r.Damaged() {
				return inspectLine(g, r)
			}
			return nil
		},
		Progress: func(done, total int64) {
			if bar == nil {
				bar = newProgress(g, "verifying", total)
			}
			bar.add(done - last)
			last = done
		},
	}
	c.Dir = shortPath(c.Dir)
	report, err := in.InspectDir(g.Ctx, c.Dir)
	if err != nil {
		return fail("inspect", err)
	}
	faults, err := cluster.InspectDir(c.Dir, func(s fmt.Stringer) error {
		if _, ok := s.(meta.EntryInfo); ok && !c.All {
			return nil
		}
		return inspectLine(g, s)
	})
	if err != nil {
		return fail("inspect", err)
	}
	if !g.JSON {
		for _, d := range report.Damaged {
			fmt.Fprintln(g.Out, d)
		}
		for _, n := range report.Notes {
			fmt.Fprintln(g.Out, n)
		}
	}
	if err := inspectLine(g, report); err != nil {
		return err
	}
	if n := len(report.Damaged) + faults; n > 0 {
		return damaged(c.Dir, n)
	}
	return nil
}

// shortPath undoes what the command line's parser does to a name that lies below the working directory.
func shortPath(name string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, name); err == nil && filepath.IsLocal(rel) && rel != "." {
			return rel
		}
	}
	return name
}

func damaged(name string, faults int) error {
	return failf("%s is damaged in %d place%s: keep a copy of the files; restore a backup, or stop the node and let `weir repair DIR` say what would be lost without one",
		name, faults, strings.Repeat("s", min(faults-1, 1)))
}

func inspectLine(g *Globals, s fmt.Stringer) error {
	if g.JSON {
		return json.NewEncoder(g.Out).Encode(s)
	}
	_, err := fmt.Fprintln(g.Out, s.String())
	return err
}
