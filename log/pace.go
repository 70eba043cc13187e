package log

import "time"

// Every sync wears flash and holds up the other syncs of the disk, so that all of a log's are held to one rate,
// Config.SyncsPerSecond. Commits wait for their turn in linger, unless they are worth a sync anyway. Work in the background
// (checkpoints, new journal files) does not wait for the rate; it spreads its syncs, and commits make up for them.
//
// The rate holds for who waits for each commit before the next as well, as one transactional producer does, although nothing gathers meanwhile: a few devices
// that publish one reading after the other look the same, and are whom it is for. What is saved up lets such a client pass now and then; for good
// it gets the rate divided by the syncs of each step, whatever their spacing. Who has a disk for more raises the rate.

// pacer counts syncs against a rate. Eight ninths of the rate come evenly and one ninth may be saved up, so that no
// second sees more than the rate.
type pacer struct {
	credit float64
	last   time.Time
}

func (b *pacer) even(rate int) float64  { return float64(rate) * 8 / 9 }
func (b *pacer) saved(rate int) float64 { return max(1, float64(rate)/9) }

func (b *pacer) refill(now time.Time, rate int) {
	if b.last.IsZero() {
		b.credit = b.saved(rate)
	} else {
		b.credit = min(b.saved(rate), b.credit+now.Sub(b.last).Seconds()*b.even(rate))
	}
	b.last = now
}

// delay is how long until the rate allows a sync.
func (b *pacer) delay(now time.Time, rate int) time.Duration {
	b.refill(now, rate)
	if b.credit >= 1 {
		return 0
	}
	return time.Duration((1 - b.credit) / b.even(rate) * float64(time.Second))
}

// spend is for a commit's own sync. One that did not wait for its turn leaves no debt.
func (b *pacer) spend(now time.Time, rate int) {
	b.refill(now, rate)
	b.credit = max(b.credit-1, min(b.credit, 0))
}

// charge is for n syncs of the background. The debt has a limit: a flood of them must not slow commits for long.
func (b *pacer) charge(n int64, rate int) {
	b.credit = max(b.credit-float64(n), -float64(rate)/4)
}

// linger lets records gather while syncs come faster than Config.SyncsPerSecond: until the rate allows the
// next, the commit is worth a sync anyway, or the wait has lasted long enough.
func (c *committer) linger() {
	cfg := &c.l.cfg
	others := c.l.syncs.Load() - c.synced
	now := time.Now()
	wait := c.pace.delay(now, cfg.SyncsPerSecond)
	if n := others - c.charged; n > 0 {
		c.charged = others
		c.pace.charge(n, cfg.SyncsPerSecond)
		wait = c.pace.delay(now, cfg.SyncsPerSecond)
	}
	wait = max(min(wait, max(cfg.CommitMaxWait, turn(cfg.SyncsPerSecond))), c.gather())
	if wait > 0 && cfg.CommitMaxWait > 0 && c.l.uncommitted.Load() < int64(cfg.CommitEnough) && !c.urgent() {
		select {
		case <-c.enough: // of an earlier commit
		default:
		}
		if c.l.uncommitted.Load() < int64(cfg.CommitEnough) {
			c.timer.Reset(wait)
			select {
			case <-c.enough:
			case <-c.timer.C:
			case <-c.l.failed:
			}
			c.timer.Stop()
		}
	}
	c.pace.spend(time.Now(), cfg.SyncsPerSecond)
}

// gather is how long to wait for the others when the last commit was of several records. Clients that were answered together send
// again together, but not at one instant; on a slow disk whoever is a little late waits for two syncs instead of one, and a client
// with a window gets half of what the disk can do. An eighth of a sync more for all is little beside that.
func (c *committer) gather() time.Duration {
	if !c.together || c.took < slowSync {
		return 0
	}
	return min(c.took/8, c.l.cfg.CommitMaxWait)
}

// slowSync is where a sync takes long enough for gather to pay, and for a timer to be exact enough.
const slowSync = time.Millisecond

// urgent: somebody waits for an entry, or for the end.
func (c *committer) urgent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing || len(c.control) > 0
}

// turn is the time of two syncs at a rate: while commits and the background both sync, each gets every other one.
func turn(rate int) time.Duration { return 2 * time.Second / time.Duration(rate) }

// breathe is called by the background between one sync and the next. It returns after a turn, or at once when somebody
// waits for the work to be done. After a failure it returns it: nothing is synced any more (A6).
func (l *Log) breathe() error { return l.pause(min(turn(l.cfg.SyncsPerSecond), maxBreath)) }

// breatheDeep is breathe between one MiB of zeros for a journal file and the next: there is time for them until the
// file in use is half full.
func (l *Log) breatheDeep() error {
	d := 50 * time.Millisecond
	if l.j.halfUsed() {
		d /= 10
	}
	return l.pause(d)
}

// lockMaintenance is maintenance.Lock for everybody but the keeper.
func (l *Log) lockMaintenance() {
	l.wanted.Add(1)
	l.maintenance.Lock()
	l.wanted.Add(-1)
}

func (l *Log) pause(d time.Duration) error {
	if l.w.alone || l.keeper.hurried() {
		return l.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.keeper.quit:
	case <-l.failed:
	}
	return l.Err()
}

// maxBreath keeps a low Config.SyncsPerSecond from drawing out what holds Log.maintenance.
const maxBreath = 20 * time.Millisecond
