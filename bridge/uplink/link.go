package uplink

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Classes of links: what is paid for by the byte and what is not, told apart by the interface on the way to the target or by a command of the operator's. All here is pure.

// Link is one class.
type Link struct {
	Name        string `yaml:"name"`
	Interface   string `yaml:"interface"`    // its name here, or a glob; with a probe none
	Limits      Limits `yaml:"limits"`       // instead of the uplink's
	MaxPriority *int   `yaml:"max_priority"` // lanes past it wait [9]; -1: nothing goes, up or down
}

// LinkProbe is a command that prints the name of the class in use.
type LinkProbe struct {
	Command []string      `yaml:"command"` // the program's full path and its arguments; no shell
	Every   time.Duration `yaml:"every"`   // [30s]
	Timeout time.Duration `yaml:"timeout"` // [5s]
}

const (
	maxLinks     = 8
	maxProbeArgs = 16
	minProbe     = time.Second
)

func (c *Config) linkDefaults() {
	if len(c.LinkProbe.Command) == 0 {
		return
	}
	if c.LinkProbe.Every == 0 {
		c.LinkProbe.Every = 30 * time.Second
	}
	if c.LinkProbe.Timeout == 0 {
		c.LinkProbe.Timeout = min(5*time.Second, c.LinkProbe.Every)
	}
}

// probed says whether a command tells the class, else the interface does.
func (c *Config) probed() bool { return len(c.LinkProbe.Command) > 0 }

func (c *Config) checkLinks(fault func(key, format string, args ...any)) {
	if len(c.Links) > maxLinks {
		fault("links", "%d of them, at most %d", len(c.Links), maxLinks)
	}
	for i, l := range c.Links {
		key := fmt.Sprintf("links[%d].", i)
		if !nameForm.MatchString(l.Name) {
			fault(key+"name", "%q: want 1 to 64 letters, digits, dots, dashes or underscores", l.Name)
		}
		if slices.ContainsFunc(c.Links[:i], func(o Link) bool { return o.Name == l.Name }) {
			fault(key+"name", "%q is taken", l.Name)
		}
		_, err := path.Match(l.Interface, "")
		switch {
		case c.probed() && l.Interface != "":
			fault(key+"interface", "link_probe says which class it is: leave one of them out")
		case !c.probed() && l.Interface == "":
			fault(key+"interface", "name one, as wwan0 or \"wwan*\", or a link_probe for all classes")
		case err != nil:
			fault(key+"interface", "%q is no name and no glob", l.Interface)
		}
		if l.MaxPriority != nil && (*l.MaxPriority < -1 || *l.MaxPriority > lastPriority) {
			fault(key+"max_priority", "%d is not between -1 and %d", *l.MaxPriority, lastPriority)
		}
		checkRate(fault, key+"limits.rate", l.Limits.Rate)
	}
	p := c.LinkProbe
	if !c.probed() {
		if p.Every != 0 || p.Timeout != 0 {
			fault("link_probe.command", "is missing")
		}
		return
	}
	if len(c.Links) == 0 {
		fault("links", "link_probe needs classes that it may name")
	}
	if !filepath.IsAbs(p.Command[0]) || len(p.Command) > maxProbeArgs {
		fault("link_probe.command", "%q: want a program's full path and at most %d arguments", p.Command, maxProbeArgs-1)
	}
	if p.Every < minProbe {
		fault("link_probe.every", "%s is less than %s", p.Every, minProbe)
	}
	if p.Timeout < 100*time.Millisecond || p.Timeout > p.Every {
		fault("link_probe.timeout", "%s is not between 100ms and every (%s)", p.Timeout, p.Every)
	}
}

func checkRate(fault func(key, format string, args ...any), key string, r Rate) {
	if r > 0 && r < minRate {
		fault(key, "less than %s carries nothing in a useful time", minRate)
	}
}

// classOf is the class that an interface belongs to, or that a probe has named.
func (c *Config) classOf(found string) (int, error) {
	for i, l := range c.Links {
		if ok, _ := path.Match(l.Interface, found); c.probed() && l.Name == found || !c.probed() && ok {
			return i, nil
		}
	}
	if c.probed() {
		return c.careful(), fmt.Errorf("it has printed %.64q, which is none of its classes", found)
	}
	return c.careful(), fmt.Errorf("the way to %s goes over the interface %.64q, which is in none of its classes", c.to[0], found)
}

// careful is the class that holds while nobody can tell: the last.
func (c *Config) careful() int { return len(c.Links) - 1 }

// maxPriority is up to which priority lanes go in a class; without classes all do.
func (c *Config) maxPriority(class int) int {
	if class < 0 || c.Links[class].MaxPriority == nil {
		return lastPriority
	}
	return *c.Links[class].MaxPriority
}

// budgets makes one for each class, or the only one.
func (c *Config) budgets() []budget {
	if len(c.Links) == 0 {
		return []budget{{limits: c.Limits}}
	}
	all := make([]budget, len(c.Links))
	for i, l := range c.Links {
		all[i].limits = l.Limits
	}
	return all
}

// linkText says what a class allows, for people.
func (c *Config) linkText(class int) string {
	l, parts := c.Links[class], []string{}
	if l.Limits.Rate > 0 {
		parts = append(parts, l.Limits.Rate.String())
	}
	if l.Limits.Daily > 0 {
		parts = append(parts, bytesText(int64(l.Limits.Daily))+" a day")
	}
	switch m := c.maxPriority(class); {
	case m < 0:
		parts = append(parts, "nothing goes")
	case m < lastPriority:
		parts = append(parts, fmt.Sprintf("priorities up to %d", m))
	}
	if len(parts) == 0 {
		return l.Name
	}
	return l.Name + " (" + strings.Join(parts, ", ") + ")"
}

// bytesText is a size as the configuration has it.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.4g GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.4g KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}
