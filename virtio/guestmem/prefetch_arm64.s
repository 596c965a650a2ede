#include "textflag.h"

// func prefetch(read, write *byte)
TEXT ·prefetch(SB), NOSPLIT, $0-16
	MOVD	read+0(FP), R0
	MOVD	write+8(FP), R1
	PRFM	(R0), PLDL1KEEP
	PRFM	64(R0), PLDL1KEEP
	PRFM	(R1), PSTL1KEEP
	RET

// func prefetchLine(p *byte)
TEXT ·prefetchLine(SB), NOSPLIT, $0-8
	MOVD	p+0(FP), R0
	PRFM	(R0), PLDL1KEEP
	RET
