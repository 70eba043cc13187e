package site

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// mosquitto's clients speak MQTT 3.1.1 here. With MQTT 5, libmosquitto (2.0.11) does not connect again after a DISCONNECT of the server, and counts a message of
// QoS 2 that comes again with DUP twice against its receive maximum, until it gives up.

// siteName is a name with an address for each node: mosquitto's clients take the first that answers.
const siteName = "weir.site"

// nameNodes gives the nodes' addresses to siteName.
func (c *cluster) nameNodes() {
	c.t.Helper()
	text := "127.0.0.1 localhost\n"
	for _, n := range c.nodes {
		text += n.host.addr() + " " + siteName + "\n"
	}
	file := filepath.Join(c.t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "--bind", file, "/etc/hosts").CombinedOutput(); err != nil {
		c.t.Fatalf("mount /etc/hosts: %v\n%s", err, out)
	}
	c.t.Cleanup(func() { _ = exec.Command("umount", "/etc/hosts").Run() })
}

// publisher is a running mosquitto_pub, which says of each packet what became of it.
type publisher struct {
	load   *load
	client string
	done   string // the packet that ends an exchange
	log    lockedBuffer

	mu          sync.Mutex
	sent, acked int
	open        bool // something new may be published; see python/devices.py
	last        int  // id of the last message sent on this connection
}

// mosquitto publishes a line every 50 ms.
func (l *load) mosquitto(qos int) {
	l.t.Helper()
	needCommand(l.t, "mosquitto_pub")
	p := &publisher{load: l, client: fmt.Sprintf("%s@mosquitto-q%d-0", l.name, qos), done: map[int]string{1: "PUBACK", 2: "PUBCOMP"}[qos]}
	cmd := exec.Command("stdbuf", "-oL", "mosquitto_pub", "-d", "-V", "mqttv311", "-h", siteName, "-k", "5", "-i", p.client, "-c",
		"-q", fmt.Sprint(qos), "-t", "site/"+p.client, "-l")
	input, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = cmd.Stdout
		err = cmd.Start()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	var feeding sync.WaitGroup
	feeding.Go(func() { p.feed(input, stop) })
	go func() {
		defer close(ended)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			_, _ = fmt.Fprintln(&p.log, time.Now().UTC().Format("15:04:05.000"), s.Text())
			p.said(s.Text())
		}
		_, _ = fmt.Fprintln(&p.log, time.Now().UTC().Format("15:04:05.000"), "ended:", cmd.Wait())
		feeding.Wait()
		l.line(fmt.Sprintf("sent %s %d %d", p.client, p.sent, p.sent-p.acked))
	}()
	l.t.Cleanup(func() {
		end()
		_ = cmd.Process.Kill()
		<-ended
		keepLog(p.client, &p.log)
	})
	l.procs = append(l.procs, &clients{cmd: cmd, stdin: closer(func() error { end(); return nil }), ended: ended, errs: &lockedBuffer{}})
}

func (p *publisher) feed(input io.WriteCloser, stop <-chan struct{}) {
	defer input.Close()
	for {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		p.mu.Lock()
		if p.open && p.sent-p.acked < 100 {
			_, _ = fmt.Fprintf(input, "%s:%d\n", p.client, p.sent)
			p.sent++
		}
		p.mu.Unlock()
	}
}

// said reads a line of -d. Message ids are given in order from 1, a line of input each.
func (p *publisher) said(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, what, _ := strings.Cut(line, " sending ")
	switch {
	case strings.HasPrefix(what, "CONNECT"):
		p.open, p.last = false, 0
	case strings.HasPrefix(what, "PUBLISH"):
		f := strings.Split(what, ", ") // d0, q1, r0, m7, …
		id := number(f[3])
		if id < p.last {
			p.load.line("misordered " + p.client) // what the client sends in the wrong order cannot be in the right one
		}
		p.last = id
	case strings.Contains(line, "received CONNACK"):
		p.open = p.sent == p.acked
	case strings.Contains(line, "received "+p.done):
		_, rest, _ := strings.Cut(line, "Mid: ")
		p.load.line(fmt.Sprintf("ack %s %d", p.client, number(rest)-1))
		p.acked++
		p.open = true
	}
}

// number is the first one in a text.
func number(s string) (n int) {
	s = s[max(0, strings.IndexAny(s, "0123456789")):]
	_, _ = fmt.Sscanf(s, "%d", &n)
	return n
}

type closer func() error

func (c closer) Close() error              { return c() }
func (c closer) Write([]byte) (int, error) { return 0, io.EOF }

// subscriber is a lasting session of mosquitto_sub that gets what all devices publish.
type subscriber struct {
	qos int
	mu  sync.Mutex
	got map[string][]int // numbers by client
	log lockedBuffer     // what mosquitto_sub says
}

func (c *cluster) subscribe(name string, qos int) *subscriber {
	c.t.Helper()
	needCommand(c.t, "mosquitto_sub")
	s := &subscriber{qos: qos, got: map[string][]int{}}
	cmd := exec.Command("stdbuf", "-oL", "mosquitto_sub", "-d", "-V", "mqttv311", "-h", siteName, "-k", "5", "-i", name, "-c", "-q", fmt.Sprint(qos), "-t", "site/#", "-F", "> %p")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = cmd.Stdout
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	ended, subscribed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		first := true
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			_, _ = fmt.Fprintln(&s.log, time.Now().UTC().Format("15:04:05.000"), sc.Text())
			if first && strings.Contains(sc.Text(), "SUBACK") {
				close(subscribed)
				first = false
			}
			text, ok := strings.CutPrefix(sc.Text(), "> ")
			if !ok {
				continue
			}
			client, number, _ := strings.Cut(text, ":")
			var n int
			_, _ = fmt.Sscan(number, &n)
			s.mu.Lock()
			s.got[client] = append(s.got[client], n)
			s.mu.Unlock()
		}
		_, _ = fmt.Fprintln(&s.log, time.Now().UTC().Format("15:04:05.000"), "ended:", cmd.Wait())
	}()
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		keepLog(fmt.Sprintf("%s-of-%d", name, c.size), &s.log)
	})
	select {
	case <-subscribed:
	case <-time.After(patience):
		c.t.Fatalf("%s has no subscription after %s", name, patience)
	}
	return s
}

// checkSubscriber waits until the subscriber has what the log holds of the load, and compares: in the same order, and once what was published and
// subscribed to with QoS 2.
func (c *cluster) checkSubscriber(s *subscriber, l *load) {
	c.t.Helper()
	want := c.read(mqttTopic)
	deadline := time.Now().Add(patience)
	for client := range l.acks {
		if kind(client) == "k" {
			continue
		}
		for {
			if fault := s.compare(client, want[client]); fault == "" {
				break
			} else if time.Now().After(deadline) {
				c.t.Errorf("the subscriber with QoS %d: %s", s.qos, fault)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (s *subscriber) compare(client string, want []place) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got[client]
	if s.qos < 2 || kind(client) == "q1" {
		got = firsts(got)
		var numbers []int
		for _, p := range want {
			numbers = append(numbers, p.number)
		}
		want = nil
		for _, n := range firsts(numbers) {
			want = append(want, place{number: n})
		}
	}
	for i, p := range want {
		if i >= len(got) {
			return fmt.Sprintf("%s: it got %d of %d messages", client, i, len(want))
		}
		if got[i] != p.number {
			return fmt.Sprintf("%s: its message %d is number %d, in the log it is %d", client, i, got[i], p.number)
		}
	}
	if len(got) > len(want) {
		return fmt.Sprintf("%s: it got %d messages, the log has %d", client, len(got), len(want))
	}
	return ""
}

// firsts are the numbers without those that came before.
func firsts(numbers []int) (once []int) {
	seen := map[int]bool{}
	for _, n := range numbers {
		if !seen[n] {
			once = append(once, n)
		}
		seen[n] = true
	}
	return once
}
