package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/quorum"
	"github.com/weir-io/weir/log/vfs"
)

// Parts of `weir cluster` that work on files, not on a running node.

type clusterKeygenCmd struct {
	File string `arg:"" type:"path" help:"The file to make."`
}

// Run writes a keyring.
func (c *clusterKeygenCmd) Run(g *Globals) error {
	if err := quorum.CreateKeyring(c.File); err != nil {
		return fail("cluster keygen", err)
	}
	path := shortPath(c.File)
	return said(g, map[string]string{"keyring": path}, "%s holds a new key: copy it to every node, readable by weir's user only, and start each with --keyring FILE", path)
}

type clusterRecoverCmd struct {
	Data       string `required:"" type:"existingdir" placeholder:"DIR" help:"The data directory of the stopped node that is to go on; choose the one that was in touch last."`
	Generation uint32 `placeholder:"N" help:"Number of the new generation, if a node has seen a later one than this directory (default: the next)."`
}

// Help says when to use it.
func (clusterRecoverCmd) Help() string {
	return "For when a majority of the voting nodes is lost and will not come back. If enough of them can be started again, do that instead: nothing is lost then.\n\n" +
		"The node becomes the only voter of a new generation of the cluster. Changes of metadata that only the lost nodes had are lost, and so are records of " +
		"which this node has no replica in sync. Stop all nodes first; those that are left come back after `weir cluster forget`."
}

// Run recovers the node's metadata and says what to do on the others.
func (c *clusterRecoverCmd) Run(g *Globals) error {
	r, err := cluster.RecoverDir(c.Data, c.Generation, slog.New(slog.DiscardHandler))
	if err != nil {
		return stopFirst(err, c.Data)
	}
	if g.JSON {
		return g.emit(r, nil)
	}
	fmt.Fprintf(g.Out, "cluster %s goes on in generation %d with node %d as its only voter\n", r.ClusterID, r.Generation, r.Broker)
	for _, l := range []struct {
		what       string
		partitions []string
	}{{"was not in sync here, so its newest records may be missing", r.Behind}, {"has no replica here, and is offline until a node that has one is back", r.Elsewhere}} {
		for _, p := range l.partitions {
			fmt.Fprintf(g.Out, "partition %s %s\n", p, l.what)
		}
	}
	if n := r.Partitions - len(r.Behind) - len(r.Elsewhere); n > 0 {
		fmt.Fprintf(g.Out, "%d of %d partitions have all their records here, as far as this node knows\n", n, r.Partitions)
	}
	t := newTable("NODE", "ADDRESS", "VOTED", "UUID")
	for _, o := range r.Others {
		id := "-"
		if o.Broker > 0 {
			id = fmt.Sprint(o.Broker)
		}
		t.add(id, orDash(o.Address), yes(o.Voter), o.UUID)
	}
	if len(r.Others) > 0 {
		fmt.Fprintln(g.Out, "\nthe other nodes of the cluster:")
		if err := t.write(g.Out); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(g.Out, "\nnext:\n"+
		"1. start this node without --join\n"+
		"2. on each other node whose directory is left: `weir cluster forget --data DIR`, then start it with --join and this node's gossip address\n"+
		"3. for each that is lost for good: `weir cluster drain NODE`, then `weir cluster remove NODE`\n")
	return err
}

// stopFirst names the way out where the node is running.
func stopFirst(err error, dir string) error {
	if errors.Is(err, vfs.ErrLocked) || strings.Contains(err.Error(), "another process uses") {
		return failure{err, "stop the node on " + shortPath(dir) + " first"}
	}
	return err
}

type clusterForgetCmd struct {
	Data string `required:"" type:"existingdir" placeholder:"DIR" help:"The data directory of the stopped node."`
}

// Run puts the node's metadata aside.
func (c *clusterForgetCmd) Run(g *Globals) error {
	aside, err := cluster.ForgetDir(c.Data)
	if err != nil {
		return stopFirst(err, c.Data)
	}
	return said(g, map[string]string{"aside": aside}, "the old metadata is in %s: start the node with --join and the gossip address of a node of the recovered cluster",
		orDash(shortPath(aside)))
}
