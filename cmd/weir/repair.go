package main

import (
	"errors"
	"fmt"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// repairCmd is the operator's word that what is damaged may be given up.
type repairCmd struct {
	Dir string `arg:"" type:"existingdir" help:"The data directory of a node that is not running."`
	Yes bool   `help:"Do it. Without this the command only says what would be lost."`
}

// Run prints what is or would be lost, a line for each range of offsets. Exit code 1: there is something to repair, and --yes was
// not given.
func (c *repairCmd) Run(g *Globals) error {
	var bar *progress
	var last int64
	c.Dir = shortPath(c.Dir)
	expected, unread := cluster.ExpectedPartitions(vfs.OS{}, c.Dir)
	report, err := log.Repair(g.Ctx, log.RepairOptions{
		Dir: c.Dir, Expected: expected, Apply: c.Yes,
		Progress: func(done, total int64) {
			if bar == nil {
				bar = newProgress(g, "reading", total)
			}
			bar.add(done - last)
			last = done
		},
	})
	bar.finish()
	if errors.Is(err, vfs.ErrLocked) { // what a start advises, another directory, is no way out here
		return failf("repair: %w: stop the node on %s first", errors.Unwrap(err), c.Dir)
	}
	if err != nil {
		return fail("repair", err)
	}
	if unread != nil {
		fmt.Fprintf(g.Err, "weir: the metadata cannot be read, so partitions whose directory is gone are not made again: %v\n", unread)
	}
	if g.JSON {
		if err := g.emit(report, nil); err != nil {
			return err
		}
	} else {
		c.print(g, report)
	}
	if report.Needed() && !c.Yes {
		return failf("nothing was changed: if no backup has what would be lost, run `weir repair %s --yes`; it moves the originals aside and removes none", c.Dir)
	}
	return nil
}

func (c *repairCmd) print(g *Globals, r *log.RepairReport) {
	if !r.Needed() {
		fmt.Fprintf(g.Out, "%s: nothing to repair\n", r.Dir)
		return
	}
	if r.Journal != "" {
		fmt.Fprintf(g.Out, "journal: %s\n", r.Journal)
	}
	for _, f := range r.Fixes {
		fmt.Fprintln(g.Out, f)
	}
	for _, l := range r.Losses {
		fmt.Fprintln(g.Out, l)
	}
	if len(r.Losses) == 0 {
		fmt.Fprintln(g.Out, "no record is lost")
	}
	verb := "would move aside"
	if r.Applied {
		verb = "moved aside"
	}
	for _, m := range r.Moved {
		fmt.Fprintf(g.Out, "%s: %s\n", verb, m)
	}
	if r.Applied {
		fmt.Fprintf(g.Out, "%s: repaired; start the node, and remove what was moved aside once nobody needs it\n", r.Dir)
	}
}
