package firmwaresim

import "math"

const day = 86400.0 // seconds

// noise gives each device its own reproducible randomness. Every use has its own channel, so that adding one does not
// change the others.
type noise struct{ seed uint64 }

// mix is SplitMix64's output function: a bijection that spreads every input bit over the result.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (n noise) bits(channel int, k int64) uint64 {
	return mix(n.seed ^ mix(uint64(channel)<<48^uint64(k)))
}

// uniform is in [0, 1), new for every k.
func (n noise) uniform(channel int, k int64) float64 {
	return float64(n.bits(channel, k)>>11) / (1 << 53)
}

// fixed is in [0, 1) and belongs to the device for life.
func (n noise) fixed(channel int) float64 { return n.uniform(channel, -1) }

// gauss is close to a standard normal: four uniforms out of one hash, tails cut at ±3.5.
func (n noise) gauss(channel int, k int64) float64 {
	b := n.bits(channel, k)
	sum := float64(b&0xffff) + float64(b>>16&0xffff) + float64(b>>32&0xffff) + float64(b>>48)
	return (sum/65536 - 2) * math.Sqrt(3)
}

// slow wanders smoothly, about ±1, with a new direction each period seconds.
func (n noise) slow(channel int, t, period float64) float64 {
	k, f := math.Modf(t / period)
	f = f * f * (3 - 2*f)
	return n.gauss(channel, int64(k))*(1-f) + n.gauss(channel, int64(k)+1)*f
}

func clamp(x, lo, hi float64) float64 { return math.Max(lo, math.Min(hi, x)) }

func step(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// smoothstep rises from 0 at lo to 1 at hi without a kink.
func smoothstep(lo, hi, x float64) float64 {
	x = clamp((x-lo)/(hi-lo), 0, 1)
	return x * x * (3 - 2*x)
}
