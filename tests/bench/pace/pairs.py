# pairs.py SECONDS MODEL_DIR OUT binary...: alternates; the first is the base.
import subprocess,sys,time,statistics as st
limit=float(sys.argv[1]); t0=time.time(); model,out=sys.argv[2],sys.argv[3]; bins=sys.argv[4:]
ps=[subprocess.Popen([b,model],stdin=subprocess.PIPE,stdout=subprocess.PIPE,text=True) for b in bins[:1]]
ps[0].stdout.readline()
for b in bins[1:]:
    p=subprocess.Popen([b,model],stdin=subprocess.PIPE,stdout=subprocess.PIPE,text=True); p.stdout.readline(); ps.append(p)
what=['decode 1','decode 8','decode 32','prompt 512']
def ask(p,w):
    p.stdin.write(w+'\n'); p.stdin.flush(); return float(p.stdout.readline())
for p in ps:
    for w in what: ask(p,w)
print('loaded',round(time.time()-t0,1),flush=True)
def report(final):
    lines=[]
    for w in what:
        for i,b in enumerate(bins):
            m=st.median(res[w][i]); r=st.median([res[w][i][k]/res[w][0][k] for k in range(rounds)])
            rp=st.median([res[w][i][k]/res[w][max(i-1,0)][k] for k in range(rounds)])
            lines.append('%s\t%s\t%s\t%.3f ms\tmin %.3f\tover first %.4f\tover previous %.4f\trounds %d'%(model.split('/')[-1],w,b.split('/')[-1],m*1e3,min(res[w][i])*1e3,r,rp,rounds))
    open(out,'w').write('\n'.join(lines)+'\n')
    if final: print('\n'.join(lines))
res={w:[[] for _ in ps] for w in what}; rounds=0
while time.time()-t0<limit:
    for w in what:
        order=list(range(len(ps)))
        if rounds%2: order.reverse()
        for i in order: res[w][i].append(ask(ps[i],w))
    rounds+=1
    report(False)
for p in ps: p.stdin.close()
report(True)
