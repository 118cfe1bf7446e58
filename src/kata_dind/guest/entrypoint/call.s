/*
 * A program that makes one system call on its standard input. It ends with 0, or with the number of the error. call.sh
 * writes its bytes, with another `call` and `growth` each time; tests/guest/test_call.py compares them with this source.
 *
 * This is the whole file, with its ELF headers, so that it takes no linker:
 *
 *     x86_64-linux-gnu-as call.s -o call.o && x86_64-linux-gnu-objcopy --output-target=binary call.o call
 *     aarch64-linux-gnu-as --defsym AARCH64=1 call.s -o call.o && ...
 *
 * Sources: elf(5), syscall(2), ioctl_xfs_fsgrowfs(2), capabilities(7).
 */

.ifdef AARCH64
	.set MACHINE, 183
	.set IOCTL, 29
.else
	.set MACHINE, 62
	.set IOCTL, 16
.endif
	.set ORIGIN, 0x400000

start:
	.byte 0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0	/* ELF, 64 bits, little-endian */
	.8byte 0
	.2byte 2, MACHINE				/* ET_EXEC */
	.4byte 1
	.8byte ORIGIN + code - start
	.8byte segment - start, 0			/* no sections */
	.4byte 0
	.2byte 64, 56, 1, 0, 0, 0

segment:
	.4byte 1, 5					/* PT_LOAD; read and execute */
	.8byte 0, ORIGIN, ORIGIN
	.8byte end - start, end - start
	.8byte 0x10000					/* the largest page of the architectures */

code:
.ifdef AARCH64
	adr	x9, call
	mov	x0, 0
	ldp	w8, w1, [x9]
	ldp	w2, w3, [x9, 8]
	mov	x4, 0
	svc	0
	neg	w0, w0
	mov	w8, 93					/* exit */
	svc	0
.else
	lea	call(%rip), %rbx
	xor	%edi, %edi
	mov	(%rbx), %eax
	mov	4(%rbx), %esi
	mov	8(%rbx), %edx
	mov	12(%rbx), %r10d
	xor	%r8d, %r8d
	syscall
	neg	%eax
	mov	%eax, %edi
	mov	$60, %eax				/* exit */
	syscall
.endif

	.org	160
call:	/* its number, and its second to fourth argument; the first and the fifth are 0 */
	.4byte IOCTL, 0x4c08, 1, 20			/* LOOP_SET_DIRECT_IO, which takes no fourth */
name:
	.asciz "security.capability"
value:	/* cap_net_raw=ep in its second version, 20 bytes */
	.4byte 0x02000001, 0x2000, 0, 0, 0
growth:	/* struct xfs_growfs_data: blocks, the percentage of inodes */
	.8byte 0, 0
end:
