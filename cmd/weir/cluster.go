package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/weir-io/weir/bridge/kafka"
	"github.com/weir-io/weir/cluster"
)

// clusterCmd is `weir cluster …`.
type clusterCmd struct {
	Status    clusterStatusCmd    `cmd:"" help:"Show nodes, the metadata quorum, and partitions that need attention."`
	Members   clusterMembersCmd   `cmd:"" help:"Show the metadata quorum."`
	Drain     clusterDrainCmd     `cmd:"" help:"Move everything that a node has to others; it serves on meanwhile."`
	Remove    clusterRemoveCmd    `cmd:"" help:"Forget a node that is drained and stopped."`
	Reassign  clusterReassignCmd  `cmd:"" help:"Give partitions other replicas."`
	Rebalance clusterRebalanceCmd `cmd:"" help:"Even out replicas and leaderships over the nodes."`
	Elect     clusterElectCmd     `cmd:"" help:"Give up what is lost of a partition without a leader, and have a node lead it that is there."`
	Keygen    clusterKeygenCmd    `cmd:"" help:"Make a keyring file for the nodes of a cluster."`
	RotateKey clusterRotateKeyCmd `cmd:"" help:"Replace the cluster's key by a new one on all nodes."`
	Recover   clusterRecoverCmd   `cmd:"" help:"Go on from one stopped node after a majority of the quorum is lost for ever."`
	Forget    clusterForgetCmd    `cmd:"" help:"Have a stopped node that was left behind by a recovery join anew, with its records."`
}

// operateWait bounds one question to a node. What takes longer goes on by itself, and is asked after.
const operateWait = 40 * time.Second

// operate asks a node of the cluster, the first of --bootstrap that can be reached.
func (g *Globals) operate(operation string, order, answer any) error {
	seeds, err := g.seeds()
	if err != nil {
		return err
	}
	particulars, err := json.Marshal(order)
	if err != nil {
		return err
	}
	nc, err := dialAny(g, seeds)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(operateWait)); err != nil {
		return err
	}
	user, password, err := g.credentials()
	if err != nil {
		return err
	}
	if user != "" {
		if err := kafka.Login(nc, user, password); err != nil {
			return fail("log in as "+user, err)
		}
	}
	text, err := kafka.CallOperate(nc, operation, particulars)
	if errors.Is(err, io.EOF) {
		return failf("%s hung up: it runs a version of weir that cannot be asked this, or it asks who you are", nc.RemoteAddr())
	}
	var refused *kafka.OperateError
	if errors.As(err, &refused) && refused.Code == kerr.RequestTimedOut.Code {
		return failure{err, "`weir cluster status` shows who is missing; if a majority is lost for ever, see `weir cluster recover --help`"}
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

// dialAny connects to the first that answers.
func dialAny(g *Globals, seeds []string) (net.Conn, error) {
	var first error
	d := net.Dialer{Timeout: dialTimeout}
	for _, s := range seeds {
		nc, err := d.DialContext(g.Ctx, "tcp", s)
		if err == nil {
			return nc, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (g *Globals) clusterStatus() (*cluster.ClusterStatus, error) {
	s := &cluster.ClusterStatus{}
	return s, g.operate(opStatus, struct{}{}, s)
}

type clusterStatusCmd struct{}

// Run shows how the cluster is.
func (clusterStatusCmd) Run(g *Globals) error {
	s, err := g.clusterStatus()
	switch {
	case err != nil:
		return fail("cluster status", err)
	case g.JSON:
		return g.emit(s, nil)
	}
	return writeCluster(g.Out, s)
}

type clusterMembersCmd struct{}

// Run shows who is in the metadata quorum.
func (clusterMembersCmd) Run(g *Globals) error {
	s, err := g.clusterStatus()
	if err != nil {
		return fail("cluster members", err)
	}
	return g.emit(s.Quorum, quorumTable(s))
}

type clusterDrainCmd struct {
	Node   string `arg:"" help:"The node: its number or its name."`
	Wait   bool   `help:"Return when it has nothing any more."`
	Cancel bool   `help:"Have the node stay; what has moved stays where it is."`
}

// Run drains the node.
func (c *clusterDrainCmd) Run(g *Globals) error {
	if c.Wait && c.Cancel {
		return usagef("cluster drain: --wait and --cancel exclude each other")
	}
	var a nodeAnswer
	if err := g.operate(opDrain, nodeOrder{c.Node, c.Cancel}, &a); err != nil {
		return fail("drain node "+c.Node, err)
	}
	if c.Cancel {
		return said(g, a, "node %d stays", a.Node)
	}
	if !c.Wait {
		return said(g, a, "node %d: %d partitions move to other nodes; `weir cluster drain %s --wait` shows how far it is", a.Node, len(a.Plan.Moves), c.Node)
	}
	if err := awaitCluster(g, "draining", func(s *cluster.ClusterStatus) (left int) {
		for _, b := range s.Brokers {
			if b.ID == a.Node {
				left = b.Replicas
				if b.Voter {
					left++
				}
			}
		}
		return left
	}); err != nil {
		return fail("drain node "+c.Node, err)
	}
	return said(g, a, "node %d has nothing any more: stop it, then run `weir cluster remove %s`", a.Node, c.Node)
}

// said prints one line, or the answer as JSON.
func said(g *Globals, answer any, format string, args ...any) error {
	if g.JSON {
		return g.emit(answer, nil)
	}
	_, err := fmt.Fprintf(g.Out, format+"\n", args...)
	return err
}

const pollEvery = time.Second

// awaitCluster asks for the status until nothing is left, with a bar where there is a terminal. A node that does not answer for a while is asked again:
// the one that is asked may be restarted meanwhile.
func awaitCluster(g *Globals, label string, left func(*cluster.ClusterStatus) int) error {
	var bar *progress
	total, done, failures := 0, 0, 0
	defer func() { bar.finish() }()
	for {
		s, err := g.clusterStatus()
		if err != nil {
			if failures++; failures > 30 || g.Ctx.Err() != nil {
				return err
			}
		} else {
			failures = 0
			n := left(s)
			if n == 0 {
				return nil
			}
			if bar == nil {
				total = n
				bar = newProgress(g, label, int64(total))
			}
			if now := total - n; now > done {
				bar.add(int64(now - done))
				done = now
			}
		}
		select {
		case <-time.After(pollEvery):
		case <-g.Ctx.Done():
			return g.Ctx.Err()
		}
	}
}

type clusterRemoveCmd struct {
	Node string `arg:"" help:"The node: its number or its name."`
}

// Run removes the node.
func (c *clusterRemoveCmd) Run(g *Globals) error {
	var a nodeAnswer
	if err := g.operate(opRemove, nodeOrder{Node: c.Node}, &a); err != nil {
		return fail("remove node "+c.Node, err)
	}
	return said(g, a, "node %d is no part of the cluster any more: delete its data directory", a.Node)
}

type clusterReassignCmd struct {
	Topic     string   `arg:"" optional:"" help:"The topic."`
	Partition *int32   `placeholder:"N" help:"The partition."`
	Replicas  []string `placeholder:"NODE,…" help:"Nodes that are to have it, by number or name, preferred leader first."`
	Factor    int      `placeholder:"N" help:"Give every partition of the topic so many replicas, with as little copying as can be."`
	File      string   `type:"existingfile" placeholder:"FILE" help:"Many moves at once, in the form of kafka-reassign-partitions.sh."`
	DryRun    bool     `help:"Only show what would move."`
	Wait      bool     `help:"Return when everything has moved."`
}

// Help shows the form of the file.
func (clusterReassignCmd) Help() string {
	return `A file holds {"partitions": [{"topic": "telemetry", "partition": 0, "replicas": [1, 2, 3]}, …]}.`
}

// moves reads what is to move from the flags or the file.
func (c *clusterReassignCmd) moves() ([]moveWish, error) {
	one := c.Topic != "" || c.Partition != nil || len(c.Replicas) > 0
	switch {
	case c.Factor != 0 && (c.Topic == "" || c.Factor < 0 || c.Partition != nil || len(c.Replicas) > 0 || c.File != ""):
		return nil, usagef("cluster reassign: --factor takes a topic and a number from 1, and nothing else")
	case c.Factor != 0:
		return nil, nil
	case c.File != "" && one:
		return nil, usagef("cluster reassign: give a topic with --partition and --replicas, or --file, not both")
	case c.File != "":
		return readMoves(c.File)
	case c.Topic == "" || c.Partition == nil || len(c.Replicas) == 0:
		return nil, usagef("cluster reassign: want TOPIC --partition N --replicas NODE,NODE,…, or TOPIC --factor N, or --file FILE")
	}
	return []moveWish{{c.Topic, *c.Partition, c.Replicas}}, nil
}

func readMoves(path string) ([]moveWish, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	var file struct {
		Partitions []struct {
			Topic     string        `json:"topic"`
			Partition *int32        `json:"partition"`
			Replicas  []json.Number `json:"replicas"`
		} `json:"partitions"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, usagef("%s: %w; see `weir cluster reassign --help`", path, err)
	}
	var moves []moveWish
	for i, p := range file.Partitions {
		if p.Topic == "" || p.Partition == nil || len(p.Replicas) == 0 {
			return nil, usagef("%s: partitions[%d]: want topic, partition and replicas", path, i)
		}
		m := moveWish{Topic: p.Topic, Partition: *p.Partition}
		for _, id := range p.Replicas {
			m.Replicas = append(m.Replicas, id.String())
		}
		moves = append(moves, m)
	}
	if len(moves) == 0 {
		return nil, usagef("%s: names no partition", path)
	}
	return moves, nil
}

// Run moves the partitions.
func (c *clusterReassignCmd) Run(g *Globals) error {
	moves, err := c.moves()
	if err != nil {
		return err
	}
	var plan cluster.Plan
	if err := g.operate(opReassign, moveOrder{moves, c.Topic, c.Factor, c.DryRun}, &plan); err != nil {
		return fail("reassign partitions", err)
	}
	return finishPlan(g, &plan, c.Wait && !c.DryRun)
}

type clusterRebalanceCmd struct {
	DryRun bool `help:"Only show what would move."`
	Wait   bool `help:"Return when everything has moved."`
}

// Run evens out the cluster.
func (c *clusterRebalanceCmd) Run(g *Globals) error {
	var plan cluster.Plan
	if err := g.operate(opRebalance, moveOrder{DryRun: c.DryRun}, &plan); err != nil {
		return fail("rebalance", err)
	}
	return finishPlan(g, &plan, c.Wait && !c.DryRun)
}

// finishPlan prints what moves, and waits for it.
func finishPlan(g *Globals, plan *cluster.Plan, wait bool) error {
	t := newTable("PARTITION", "CHANGE", "FROM", "TO")
	for _, m := range plan.Moves {
		t.add(fmt.Sprintf("%s/%d", m.Topic, m.Partition), "replicas", joinIDs(m.From), joinIDs(m.To))
	}
	for _, l := range plan.Leads {
		t.add(fmt.Sprintf("%s/%d", l.Topic, l.Partition), "leader", fmt.Sprint(l.From), fmt.Sprint(l.To))
	}
	switch {
	case len(t.rows) == 0 && !g.JSON:
		_, err := fmt.Fprintln(g.Out, "nothing to change")
		return err
	default:
		if err := g.emit(plan, t); err != nil {
			return err
		}
	}
	if !wait {
		return nil
	}
	moved := map[string]bool{}
	for _, m := range plan.Moves {
		moved[fmt.Sprintf("%s/%d", m.Topic, m.Partition)] = true
	}
	return fail("wait for the moves", awaitCluster(g, "moving", func(s *cluster.ClusterStatus) (left int) {
		for _, p := range s.Attention {
			if moved[fmt.Sprintf("%s/%d", p.Topic, p.Partition)] && len(p.Adding)+len(p.Removing) > 0 {
				left++
			}
		}
		if s.Partitions.Moving > 0 && len(s.Attention) == cluster.MaxAttention {
			left = max(left, s.Partitions.Moving) // more than the list holds
		}
		return left
	}))
}

type clusterElectCmd struct {
	Topic     string `arg:"" help:"The topic."`
	Partition int32  `required:"" placeholder:"N" help:"The partition."`
	Leader    string `required:"" placeholder:"NODE" help:"The node, by number or name; it must have a replica."`
	Unclean   bool   `help:"Needed: what this node does not have is lost for good, also where a node that has it comes back."`
}

// Run elects the node.
func (c *clusterElectCmd) Run(g *Globals) error {
	if !c.Unclean {
		return usagef("cluster elect: records that node %s does not have would be lost: start a node that has them, or say --unclean", c.Leader)
	}
	var a nodeAnswer
	if err := g.operate(opElect, electOrder{c.Topic, c.Partition, c.Leader}, &a); err != nil {
		return fail("elect a leader", err)
	}
	return said(g, a, "node %d leads partition %s/%d", a.Node, c.Topic, c.Partition)
}

type clusterRotateKeyCmd struct{}

// Run gives all nodes a new key.
func (clusterRotateKeyCmd) Run(g *Globals) error {
	if err := g.operate(opRotateKey, struct{}{}, &struct{}{}); err != nil {
		return fail("rotate the key", err)
	}
	return said(g, map[string]bool{"rotated": true}, "all nodes use a new key, and have it in their keyring files; a node that joins later needs a copy of one of them")
}

// nodeLabel is a node's number, with its name where that is known.
func nodeLabel(s *cluster.ClusterStatus, id int32) string {
	for _, b := range s.Brokers {
		if b.ID == id && b.Name != "" && b.Name != fmt.Sprint(id) {
			return fmt.Sprintf("%d (%s)", id, b.Name)
		}
	}
	if id <= 0 {
		return "none"
	}
	return fmt.Sprint(id)
}

// orDash stands in for what is not known.
func orDash(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}
