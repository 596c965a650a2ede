#include "textflag.h"

// func prefetch(read, write *byte)
TEXT ·prefetch(SB), NOSPLIT, $0-16
	MOVQ	read+0(FP), AX
	MOVQ	write+8(FP), BX
	PREFETCHT0	(AX)
	PREFETCHT0	64(AX)
	BYTE	$0x0f; BYTE $0x0d; BYTE $0x0b // PREFETCHW (BX)
	RET

// func prefetchLine(p *byte)
TEXT ·prefetchLine(SB), NOSPLIT, $0-8
	MOVQ	p+0(FP), AX
	PREFETCHT0	(AX)
	RET
