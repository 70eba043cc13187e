package uplink

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// linkWatch finds out which class of links is in use, from its own goroutine: a command may take its time.
type linkWatch struct {
	f     *Forwarder
	first chan struct{} // closed after the first look

	// Of its goroutine.
	address string    // of the target, without a name to be looked up; "" until one is known
	asked   time.Time // when its name was looked up last, whatever came of it
	err     error     // that came of it
}

const (
	linkEvery    = 5 * time.Second  // looks at the route, which send nothing
	resolveEvery = 30 * time.Second // while the target is not reached, and something may go: names are asked over the link
	probeOutput  = 256              // bytes that are read of it
)

func (w *linkWatch) run(ctx context.Context) {
	every := linkEvery
	if w.f.Config.probed() {
		every = w.f.Config.LinkProbe.Every
	}
	for ctx.Err() == nil {
		class, err := w.look(ctx)
		if ctx.Err() != nil {
			return
		}
		w.f.foundLink(class, err)
		if w.first != nil {
			close(w.first)
			w.first = nil
		}
		w.f.sleep(ctx, every)
	}
}

// look says which class it is; the most careful with the reason why nobody can tell.
func (w *linkWatch) look(ctx context.Context) (class int, err error) {
	c := &w.f.Config
	var found string
	if c.probed() {
		if found, err = c.LinkProbe.run(ctx, c.Name); err != nil {
			return c.careful(), fmt.Errorf("link_probe: %s: %w", c.LinkProbe.Command[0], err)
		}
		if class, err = c.classOf(found); err != nil {
			err = fmt.Errorf("link_probe: %s: %w", c.LinkProbe.Command[0], err)
		}
		return class, err
	}
	if found, err = w.route(ctx); err != nil {
		return c.careful(), fmt.Errorf("look for the interface on the way to %s: %w", c.to[0], err)
	}
	return c.classOf(found)
}

// route is the interface over which packets to the target leave. A connected UDP socket sends none.
func (w *linkWatch) route(ctx context.Context) (string, error) {
	if w.resolves() {
		w.asked = time.Now()
		conn, err := dialUDP(ctx, w.f.Config.to[0])
		if w.err = err; err == nil {
			w.address = conn.RemoteAddr().String()
			conn.Close()
		}
	}
	if w.address == "" {
		return "", w.err
	}
	conn, err := dialUDP(ctx, w.address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	from, is := conn.LocalAddr().(*net.UDPAddr)
	if !is {
		return "", fmt.Errorf("%v is no address of an interface", conn.LocalAddr())
	}
	return interfaceOf(from.IP)
}

// resolves says whether the target's name is to be looked up now. One that is an address is looked up nowhere.
func (w *linkWatch) resolves() bool {
	to := w.f.Config.to[0]
	if _, err := netip.ParseAddrPort(to); err == nil {
		w.address = to
		return false
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	return (w.address == "" || !w.f.state.up && !w.f.closed()) && time.Since(w.asked) > resolveEvery
}

func dialUDP(ctx context.Context, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, linkEvery)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "udp", to)
}

// interfaceOf is the interface that has an address.
func interfaceOf(ip net.IP) (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, i := range all {
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			if n, is := a.(*net.IPNet); is && n.IP.Equal(ip) {
				return i.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no interface has the address %s", ip)
}

// run gives what the command prints: one line, the name of a class. It gets a fixed PATH and the uplink's name, and nothing else of this process.
func (p *LinkProbe) run(ctx context.Context, uplink string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Command[0], p.Command[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "WEIR_UPLINK=" + uplink}
	cmd.WaitDelay = p.Timeout // what it has begun itself may hold its output
	var out, errs firstBytes
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("it has not ended within %s", p.Timeout)
	case err != nil:
		return "", errors.New(strings.TrimSuffix(fmt.Sprintf("%v: %s", err, cmp.Or(errs.line(), out.line())), ": "))
	}
	return out.line(), nil
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct{ kept []byte }

func (w *firstBytes) Write(b []byte) (int, error) {
	w.kept = append(w.kept, b[:min(len(b), probeOutput-len(w.kept))]...)
	return len(b), nil
}

// line is the first.
func (w *firstBytes) line() string {
	line, _, _ := bytes.Cut(w.kept, []byte("\n"))
	return strings.TrimSpace(string(line))
}

// errOtherLink ends a connection whose way is no more, or must not be used any more.
var errOtherLink = errors.New("another link is in use")

// foundLink notes the class that is in use; Run turns to its budget. What is on its way over an interface that is not the way any more would be waited for in vain.
func (f *Forwarder) foundLink(class int, err error) {
	f.mu.Lock()
	was, told, abandon := f.link, f.linkErr, f.abandon
	f.link, f.linkErr = class, err
	closed := f.closed()
	f.mu.Unlock()
	if err != nil && (told == nil || told.Error() != err.Error()) {
		f.Logger.Warn("nobody can tell which link an uplink uses: the most careful class holds", "link", f.Config.Links[class].Name, "error", err)
	}
	if class == was {
		return
	}
	f.Logger.Info("an uplink uses another link", "link", f.Config.linkText(class))
	if abandon != nil && (closed || !f.Config.probed()) {
		abandon(errOtherLink)
	}
	f.poke()
	f.hurry()
}

// useLink turns to the budget of the class in use. By Run only, which charges it.
func (f *Forwarder) useLink() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := &f.budgets[max(f.link, 0)]; b != f.budget {
		f.budget, f.state.waits = b, ""
	}
}

// closed says whether nothing may go over the link in use. Under mu.
func (f *Forwarder) closed() bool { return f.Config.maxPriority(f.link) < 0 }
