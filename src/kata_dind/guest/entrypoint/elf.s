/*
 * What the programs of this directory begin with: their ELF headers, so that they are whole files and take no linker;
 * then their code. elf.sh writes the headers for both.
 *
 * Source: elf(5).
 */

.ifdef AARCH64
	.set MACHINE, 183
.else
	.set MACHINE, 62
.endif
	.set ORIGIN, 0x400000
	.set SIZE, 1024					/* at least as much as there is, for either program and machine */
	.set CODE, 120

start:
	.byte 0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0	/* ELF, 64 bits, little-endian */
	.8byte 0
	.2byte 2, MACHINE				/* ET_EXEC */
	.4byte 1
	.8byte ORIGIN + CODE
	.8byte segment - start, 0			/* no sections */
	.4byte 0
	.2byte 64, 56, 1, 0, 0, 0

segment:
	.4byte 1, 5					/* PT_LOAD; read and execute */
	.8byte 0, ORIGIN, ORIGIN
	.8byte SIZE, SIZE
	.8byte 0x10000					/* the largest page of the architectures */
