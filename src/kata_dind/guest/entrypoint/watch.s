/*
 * A program that ends a container whose forced stop reaches nobody. It is run in the directory of the container's own
 * cgroup, as a child of what becomes the command; an argument says that process 1 is the container's, too. watch.sh
 * writes its bytes; tests/guest/test_forced_stop.py compares them with this source.
 *
 * To kill a container, Kata's agent writes 1 to cgroup.freeze, reads cgroup.threads (in old versions cgroup.procs),
 * sends SIGKILL to what stands there, and writes 0 to cgroup.freeze: do_signal_process in
 * https://github.com/kata-containers/kata-containers/blob/main/src/agent/src/rpc.rs
 * Nothing stands there once the processes have moved one level down, but inotify tells of the three accesses. A pause
 * and its end are two writes without such a read between them. `docker top` of a paused container reads cgroup.procs,
 * too, but runc reads cgroup.freeze back when it pauses, which the agent never does: setFreezer in
 * https://github.com/opencontainers/cgroups/blob/main/fs2/freezer.go
 * Its states: 0; 1 after a write; 2 when a list was read since; 3 after one more write, which was the thaw, for a frozen
 * program can't take notice, unless a further write follows at once. Some writers truncate the file first, so a write
 * counts when it is closed; and opens are watched, for two equal events in a row become one.
 *
 * This is all of the file, but for what elf.s has:
 *
 *     x86_64-linux-gnu-as -I . watch.s -o watch.o && x86_64-linux-gnu-objcopy --output-target=binary watch.o watch
 *     aarch64-linux-gnu-as -I . --defsym AARCH64=1 watch.s -o watch.o && ...
 *
 * Sources: syscall(2), inotify(7), ptrace(2), pid_namespaces(7), cgroup-v2.rst.
 */

	.include "elf.s"

	.set QUIET_MS, 2000
	.set THAWED_MS, 200

freeze:
	.asciz "cgroup.freeze"
procs:
	.asciz "cgroup.procs"
threads:
	.asciz "cgroup.threads"
all:
	.asciz "cgroup.kill"
one:
	.ascii "1"
	.org	CODE - 4
thawed:
	.4byte THAWED_MS * 1000000

.ifdef AARCH64
	.macro ask number
	mov	w8, \number
	svc	0
	.endm
.else
	.macro ask number
	push	$\number
	pop	%rax
	syscall
	.endm
.endif

	.org	CODE
.ifdef AARCH64
	ldr	x19, [sp]				/* the number of arguments */
	mov	x0, -100				/* AT_FDCWD */
	ldr	x1, [sp, 8]				/* its own file */
	mov	x2, 0
	ask	35					/* unlinkat */
	sub	sp, sp, 1024
	mov	x0, 1					/* PR_SET_PDEATHSIG, so that it ends with the command */
	mov	x1, 9
	ask	167					/* prctl */
	ask	157					/* setsid: what is sent to the command's group is not for it */
	mov	x0, 0					/* no terminal, pipe or lock stays open because of it */
	mov	x1, -1
	mov	x2, 0
	ask	436					/* close_range */
	mov	x0, 0
	ask	26					/* inotify_init1 */
	mov	w20, w0
	adr	x1, freeze				/* the first watch */
	mov	x2, 0x29				/* IN_ACCESS, IN_CLOSE_WRITE, IN_OPEN */
	bl	watch
	adr	x1, procs				/* the second */
	mov	x2, 0x10				/* IN_CLOSE_NOWRITE */
	bl	watch
	adr	x1, threads				/* the third */
	bl	watch
	mov	w21, 0

forget:	/* nothing has happened for a while */
	cmp	w21, 3
	beq	kill
	mov	w21, 0					/* the state */
next:
	mov	w0, w20
	mov	w1, 1					/* POLLIN */
	stp	w0, w1, [sp]
	mov	x2, 0					/* for ever, if nothing is under way */
	cbz	w21, poll
	add	x2, sp, 16				/* a struct timespec, which it may change */
	mov	x3, QUIET_MS / 1000
	stp	x3, xzr, [x2]
	cmp	w21, 3
	bne	poll
	ldr	w3, thawed
	stp	xzr, x3, [x2]
poll:
	mov	x0, sp
	mov	x1, 1
	mov	x3, 0
	ask	73					/* ppoll */
	cbz	w0, forget
	cmn	w0, 4					/* EINTR */
	beq	next
	tbnz	w0, 31, done
	mov	w0, w20
	mov	x1, sp
	mov	x2, 1024
	ask	63					/* read */
	cmp	w0, 0
	ble	done
	mov	x23, sp
	add	x24, x23, w0, uxtw
event:	/* a struct inotify_event without a name */
	ldp	w0, w1, [x23], 16			/* which watch, and what has happened */
	cmp	w0, 1
	beq	freezer
	cmp	w21, 3
	beq	kill
	cbz	w21, more
	mov	w21, 2
	b	more
freezer:
	tbnz	w1, 3, written
	tbz	w1, 0, more
	mov	w21, 0
	b	more
written:
	cmp	w21, 2
	mov	w21, 1
	bne	more
	mov	w21, 3
more:
	cmp	x23, x24
	blt	event
	b	next

watch:
	mov	w0, w20
	ask	27					/* inotify_add_watch */
	tbnz	w0, 31, done
	ret

kill:	/* cgroup.kill spares process 1, which only a tracer's end can kill from inside of its namespace. */
	cmp	x19, 1
	ble	rest
	mov	x0, 0x4206				/* PTRACE_SEIZE, with PTRACE_O_EXITKILL */
	mov	x1, 1
	mov	x2, 0
	mov	x3, 0x100000
	ask	117					/* ptrace */
rest:
	mov	x0, -100				/* AT_FDCWD */
	adr	x1, all
	mov	x2, 1					/* O_WRONLY */
	ask	56					/* openat */
	adr	x1, one
	mov	x2, 1
	ask	64					/* write */
done:
	mov	x0, 0
	ask	93					/* exit */
.else
	mov	(%rsp), %rbp				/* the number of arguments */
	mov	8(%rsp), %rdi				/* its own file */
	ask	87					/* unlink */
	sub	$1024, %rsp
	push	$1					/* PR_SET_PDEATHSIG, so that it ends with the command */
	pop	%rdi
	push	$9
	pop	%rsi
	ask	157					/* prctl */
	ask	112					/* setsid: what is sent to the command's group is not for it */
	xor	%edi, %edi				/* no terminal, pipe or lock stays open because of it */
	or	$-1, %esi
	xor	%edx, %edx
	ask	436					/* close_range */
	ask	294					/* inotify_init1 */
	mov	%eax, %r12d
	mov	$(ORIGIN + freeze - start), %esi		/* the first watch */
	mov	$0x29, %dl				/* IN_ACCESS, IN_CLOSE_WRITE, IN_OPEN */
	call	watch
	mov	$(ORIGIN + procs - start), %esi		/* the second */
	mov	$0x10, %dl				/* IN_CLOSE_NOWRITE */
	call	watch
	mov	$(ORIGIN + threads - start), %esi		/* the third */
	call	watch
	xor	%r13d, %r13d

forget:	/* nothing has happened for a while */
	cmp	$3, %r13d
	je	kill
	xor	%r13d, %r13d				/* the state */
next:
	mov	%rsp, %rdi
	mov	%r12d, (%rdi)
	push	$1
	pop	%rsi
	mov	%esi, 4(%rdi)				/* POLLIN */
	or	$-1, %edx				/* for ever, if nothing is under way */
	test	%r13d, %r13d
	jz	poll
	mov	$QUIET_MS, %edx
	cmp	$3, %r13d
	jne	poll
	mov	$THAWED_MS, %edx
poll:
	ask	7					/* poll */
	test	%eax, %eax
	jz	forget
	jg	ready
	cmp	$-4, %eax				/* EINTR */
	je	next
	jmp	done
ready:
	mov	%r12d, %edi
	mov	%rsp, %rsi
	mov	$1024, %edx
	xor	%eax, %eax				/* read */
	syscall
	test	%eax, %eax
	jle	done
	mov	%rsp, %rbx
	lea	(%rbx,%rax), %r15
event:	/* a struct inotify_event without a name */
	mov	(%rbx), %eax				/* which watch */
	mov	4(%rbx), %ecx				/* what has happened */
	add	$16, %rbx
	dec	%eax
	jz	freezer
	cmp	$3, %r13d
	je	kill
	test	%r13d, %r13d
	jz	more
	push	$2
	pop	%r13
	jmp	more
freezer:
	test	$8, %cl
	jnz	written
	test	$1, %cl
	jz	more
	xor	%r13d, %r13d
	jmp	more
written:
	cmp	$2, %r13d
	push	$1
	pop	%r13
	jne	more
	mov	$3, %r13b
more:
	cmp	%r15, %rbx
	jb	event
	jmp	next

watch:
	mov	%r12d, %edi
	ask	254					/* inotify_add_watch */
	test	%eax, %eax
	js	done
	ret

kill:	/* cgroup.kill spares process 1, which only a tracer's end can kill from inside of its namespace. */
	dec	%ebp
	jz	rest
	mov	$0x4206, %edi				/* PTRACE_SEIZE, with PTRACE_O_EXITKILL */
	push	$1
	pop	%rsi
	xor	%edx, %edx
	mov	$0x100000, %r10d
	ask	101					/* ptrace */
rest:
	push	$-100					/* AT_FDCWD */
	pop	%rdi
	mov	$(ORIGIN + all - start), %esi
	push	$1					/* O_WRONLY */
	pop	%rdx
	ask	257					/* openat */
	mov	%eax, %edi
	mov	$(ORIGIN + one - start), %esi
	ask	1					/* write */
done:
	xor	%edi, %edi
	ask	60					/* exit */
.endif
